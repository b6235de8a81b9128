import type { EntryType } from '../archive/entry.ts';
import { escaped, modeText, timeText } from '../inspect/entry-fields.ts';
import type { LayerTotals, ReadEntry } from '../inspect/read-layer.ts';
import { bytesText } from '../units.ts';

/** Formats the entries and totals of a layer for `unpackd layer ls`. */

const LETTERS = {
  file: '-',
  directory: 'd',
  symlink: 'l',
  hardlink: 'h',
  character: 'c',
  block: 'b',
  fifo: 'p',
} as const satisfies Record<EntryType, string>;

/** An entry as lines: one like a line of `ls -l`, but exact, and below it the fields that only some entries have. */
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

function whiteoutText(whiteout: NonNullable<ReadEntry['whiteout']>): string {
  switch (whiteout.kind) {
    case 'deleted':
      return `whiteout: deletes ${escaped(whiteout.name)}`;
    case 'opaque':
      return 'opaque: hides what the lower layers have in this directory';
    case 'ignored':
      return 'ignored: metadata of AUFS';
    case 'invalid':
      return 'invalid: a whiteout without a name; the layer cannot be applied';
  }
}

export function totalsLines({ compression, blob, tar, entries, contentBytes }: LayerTotals, kinds: Kinds): string[] {
  const counts = [...kinds]
    .map(([kind, count]) => `${count.toLocaleString('en-US')} ${plural(kind, count)}`)
    .join(', ');
  return [
    `${entries.toLocaleString('en-US')} entries${counts === '' ? '' : `: ${counts}`}; ${bytesText(contentBytes)} of content`,
    `tar   ${tar.digest}  ${tar.bytes} bytes  (the DiffID)`,
    `blob  ${blob.digest}  ${blob.bytes} bytes  ${compression === 'none' ? 'not compressed' : compression}`,
  ];
}

const plural = (kind: string, count: number): string =>
  count === 1 ? kind : kind === 'directory' ? 'directories' : `${kind}s`;

/** The number of entries of each kind. */
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
