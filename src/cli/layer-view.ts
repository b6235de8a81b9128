import type { EntryType } from '../archive/entry.ts';
import type { LayerTotals, ReadEntry } from '../layer/read-layer.ts';
import { bytesText } from '../queue/text.ts';
import type { Timespec } from '../system/files.ts';

/** Bytes as text that says each of them: printable ASCII as it is, a backslash doubled, the rest as `\xNN`. */
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

/** What an entry says, as fields that are compared and printed; those that its type doesn't have are absent. */
export function entryFields({
  entry,
  whiteout,
  content,
}: ReadEntry): Readonly<Record<string, string | number | object>> {
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

const LETTERS = {
  file: '-',
  directory: 'd',
  symlink: 'l',
  hardlink: 'h',
  character: 'c',
  block: 'b',
  fifo: 'p',
} as const satisfies Record<EntryType, string>;

/** An entry as `ls -l` would show it, but exact; what only some entries have stands below it. */
export function entryLines(read: ReadEntry): string[] {
  const { entry, whiteout, content } = read;
  const { type, mode, uid, gid, size, mtime, atime, xattrs } = entry;
  const isDevice = type === 'character' || type === 'block';
  const amount = isDevice ? `${entry.devMajor}:${entry.devMinor}` : type === 'file' ? String(size) : '-';
  const target =
    type === 'symlink'
      ? ` -> ${escaped(entry.linkName)}`
      : type === 'hardlink'
        ? ` is a link to ${escaped(entry.linkName)}`
        : '';
  const notes = [...(whiteout === undefined ? [] : [whiteoutText(whiteout)]), ...(entry.sparse ? ['sparse'] : [])].join(
    ', ',
  );
  const lines = [
    `${whiteout === undefined ? LETTERS[type] : 'w'} ${modeText(mode)} ${`${uid}:${gid}`.padEnd(11)} ${amount.padStart(12)} ` +
      `${timeText(mtime)} ${escaped(entry.name)}${target}${notes === '' ? '' : `  (${notes})`}`,
  ];
  if (atime.seconds !== mtime.seconds || atime.nanoseconds !== mtime.nanoseconds) {
    lines.push(`    atime ${timeText(atime)}`);
  }
  for (const [key, value] of xattrs ?? []) {
    lines.push(`    xattr ${escaped(Buffer.from(key, 'latin1'))}="${escaped(value)}"`);
  }
  if (content !== undefined) lines.push(`    content ${content}`);
  return lines;
}

function whiteoutFields(whiteout: NonNullable<ReadEntry['whiteout']>): object {
  return whiteout.kind === 'deleted' ? { kind: 'deleted', name: escaped(whiteout.name) } : { kind: whiteout.kind };
}

function whiteoutText(whiteout: NonNullable<ReadEntry['whiteout']>): string {
  switch (whiteout.kind) {
    case 'deleted':
      return `whiteout: deletes ${escaped(whiteout.name)}`;
    case 'opaque':
      return 'opaque: hides what the layers below have in this directory';
    case 'ignored':
      return 'ignored: bookkeeping of AUFS';
    case 'invalid':
      return 'invalid: a whiteout of nothing, with which no layer is applied';
  }
}

export function totalsLines({ compression, blob, tar, entries, contentBytes }: LayerTotals, kinds: Kinds): string[] {
  const told = [...kinds].map(([kind, count]) => `${count.toLocaleString('en-US')} ${plural(kind, count)}`).join(', ');
  return [
    `${entries.toLocaleString('en-US')} entries${told === '' ? '' : `: ${told}`}; ${bytesText(contentBytes)} of content`,
    `tar   ${tar.digest}  ${tar.bytes} bytes  (the DiffID)`,
    `blob  ${blob.digest}  ${blob.bytes} bytes  ${compression === 'none' ? 'not compressed' : compression}`,
  ];
}

const plural = (kind: string, count: number): string =>
  count === 1 ? kind : kind === 'directory' ? 'directories' : `${kind}s`;

/** How many entries there are of each kind. */
export type Kinds = ReadonlyMap<string, number>;

const KINDS = {
  file: 'file',
  directory: 'directory',
  symlink: 'symbolic link',
  hardlink: 'hard link',
  character: 'character device',
  block: 'block device',
  fifo: 'FIFO',
} as const satisfies Record<EntryType, string>;

export function countKinds(kinds: Map<string, number>, entries: readonly ReadEntry[]): void {
  for (const { entry, whiteout } of entries) {
    const kind = whiteout === undefined ? KINDS[entry.type] : 'whiteout';
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
}
