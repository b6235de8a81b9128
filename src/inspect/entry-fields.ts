import type { Timespec } from '../system/files.ts';
import type { ReadEntry } from './read-layer.ts';

/**
 * An entry as fields that can be printed and compared. `unpackd layer ls` prints them, `unpackd layer diff` compares them
 * (`changedFields`). Fields that an entry of this type does not have are absent.
 */
export type EntryFields = Readonly<Record<string, string | number | object>>;

/** One field that differs between two entries; `undefined` where an entry does not have it. */
export interface ChangedField {
  readonly field: string;
  readonly a: EntryFields[string] | undefined;
  readonly b: EntryFields[string] | undefined;
}

export function entryFields({ entry, whiteout, content }: ReadEntry): EntryFields {
  const { type, mode, uid, gid, size, mtime, atime, linkName, devMajor, devMinor, xattrs, sparse } = entry;
  const isLink = type === 'symlink' || type === 'hardlink';
  const isDevice = type === 'character' || type === 'block';
  const sameTimes = atime.seconds === mtime.seconds && atime.nanoseconds === mtime.nanoseconds;
  return {
    name: escaped(entry.name),
    type,
    ...(whiteout === undefined ? {} : { whiteout: whiteoutFields(whiteout) }),
    mode: modeText(mode),
    owner: `${uid}:${gid}`,
    ...(type === 'file' ? { size } : {}),
    ...(isDevice ? { device: `${devMajor}:${devMinor}` } : {}),
    ...(isLink ? { target: escaped(linkName) } : {}),
    mtime: timeText(mtime),
    ...(sameTimes ? {} : { atime: timeText(atime) }),
    ...(sparse ? { sparse: 'yes' } : {}),
    ...(content === undefined ? {} : { content }),
    ...(xattrs === undefined
      ? {}
      : {
          xattrs: Object.fromEntries(
            [...xattrs].map(([key, value]) => [escaped(Buffer.from(key, 'latin1')), escaped(value)]),
          ),
        }),
  };
}

/** The fields that differ between two entries. Every extended attribute is a separate field, `xattr NAME`. */
export function changedFields(first: ReadEntry, second: ReadEntry): ChangedField[] {
  const [a, b] = [flat(entryFields(first)), flat(entryFields(second))];
  return [...new Set([...Object.keys(a), ...Object.keys(b)])]
    .map((field) => ({ field, a: a[field], b: b[field] }))
    .filter((change) => fieldText(change.a) !== fieldText(change.b));
}

export function fieldText(value: EntryFields[string] | undefined): string {
  if (value === undefined) return '(none)';
  if (value === '') return '""';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** Bytes as printable ASCII. A backslash is doubled, every other byte is written as `\xNN`. Different bytes give different texts. */
export function escaped(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString('latin1')
    .replace(/[^\x20-\x7e]|\\/g, (char) =>
      char === '\\' ? '\\\\' : `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`,
    );
}

/** `2020-09-13T12:26:40.000000001Z` */
export function timeText({ seconds, nanoseconds }: Timespec): string {
  return new Date(seconds * 1000).toISOString().replace(/\.000Z$/, `.${String(nanoseconds).padStart(9, '0')}Z`);
}

export const modeText = (mode: number): string => mode.toString(8).padStart(4, '0');

function flat({ xattrs, ...fields }: EntryFields): EntryFields {
  const own = Object.entries(xattrs ?? {}).map(([key, value]) => [`xattr ${key}`, value] as const);
  return { ...fields, ...Object.fromEntries(own) };
}

function whiteoutFields(whiteout: NonNullable<ReadEntry['whiteout']>): object {
  return whiteout.kind === 'deleted' ? { kind: 'deleted', name: escaped(whiteout.name) } : { kind: whiteout.kind };
}
