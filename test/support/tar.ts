import { Buffer } from 'node:buffer';

/**
 * Builds tar archives byte by byte, also broken and hostile ones, so that a test shows the archive and the expected tree
 * side by side. Nothing is checked here. The benchmark uses it too.
 */
export interface Member {
  readonly name: string | Buffer;
  /** One character; default: from the other fields. */
  readonly type?: string;
  readonly content?: string | Buffer;
  /** The size in the header. Default: the length of the content. */
  readonly size?: number | bigint;
  readonly mode?: number;
  readonly uid?: number | bigint;
  readonly gid?: number | bigint;
  /** Whole seconds; fractions need a PAX record. */
  readonly mtime?: number | bigint;
  readonly linkName?: string | Buffer;
  readonly devMajor?: number;
  readonly devMinor?: number;
  /** Records of a PAX header before the entry, in order. */
  readonly pax?: readonly (readonly [string, string | Buffer])[];
  readonly format?: 'ustar' | 'gnu' | 'v7';
  /** Changes the finished header block, before its checksum is computed. */
  readonly patch?: (block: Buffer) => void;
}

const BLOCK = 512;

/** One entry: an optional PAX header, the header, the content. */
export function member(entry: Member): Buffer {
  const content = Buffer.from(entry.content ?? '');
  const parts: Buffer[] = [];
  if (entry.pax !== undefined) parts.push(paxHeader(entry.pax));
  parts.push(headerBlock({ ...entry, size: entry.size ?? content.length }), padded(content));
  return Buffer.concat(parts);
}

/** A whole archive with its two blocks of zeros. */
export function tar(...members: readonly (Member | Buffer)[]): Buffer {
  const parts = members.map((entry) => (Buffer.isBuffer(entry) ? entry : member(entry)));
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)]);
}

export const file = (name: string | Buffer, content: string | Buffer = '', more: Partial<Member> = {}): Member => ({
  name,
  content,
  ...more,
});
export const directory = (name: string | Buffer, more: Partial<Member> = {}): Member => ({
  name,
  type: '5',
  mode: 0o755,
  ...more,
});
export const symlink = (name: string | Buffer, linkName: string | Buffer, more: Partial<Member> = {}): Member => ({
  name,
  type: '2',
  linkName,
  mode: 0o777,
  ...more,
});
export const hardlink = (name: string | Buffer, linkName: string | Buffer, more: Partial<Member> = {}): Member => ({
  name,
  type: '1',
  linkName,
  ...more,
});
export const device = (
  name: string,
  type: 'c' | 'b',
  devMajor: number,
  devMinor: number,
  more: Partial<Member> = {},
): Member => ({ name, type: type === 'c' ? '3' : '4', devMajor, devMinor, ...more });
export const fifo = (name: string, more: Partial<Member> = {}): Member => ({ name, type: '6', ...more });
/** `dir/.wh.name`: the name is deleted. */
export const whiteout = (path: string, more: Partial<Member> = {}): Member => {
  const slash = path.lastIndexOf('/') + 1;
  return file(`${path.slice(0, slash)}.wh.${path.slice(slash)}`, '', more);
};
/** `dir/.wh..wh..opq`: the directory hides everything below it. */
export const opaque = (path: string): Member => file(path === '' ? '.wh..wh..opq' : `${path}/.wh..wh..opq`);

/** `length key=value\n` for each record, in a header of its own. */
export function paxHeader(records: readonly (readonly [string, string | Buffer])[], type = 'x'): Buffer {
  const content = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
  return Buffer.concat([headerBlock({ name: 'PaxHeaders/entry', type, size: content.length }), padded(content)]);
}

export function paxRecord(key: string, value: string | Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from('\n')]);
  let length = body.length + 1;
  while (String(length).length + body.length > length) length++;
  return Buffer.concat([Buffer.from(String(length)), body]);
}

/** The GNU entry for a long name (`L`) or link target (`K`) of the next entry. */
export function gnuLong(type: 'L' | 'K', text: string | Buffer): Buffer {
  const content = Buffer.concat([Buffer.from(text), Buffer.alloc(1)]);
  return Buffer.concat([
    headerBlock({ name: '././@LongLink', type, size: content.length, format: 'gnu' }),
    padded(content),
  ]);
}

export function headerBlock(entry: Member): Buffer {
  const block = Buffer.alloc(BLOCK);
  const format = entry.format ?? 'ustar';
  Buffer.from(entry.name).copy(block, 0, 0, 100);
  number(block, 100, 8, entry.mode ?? 0o644);
  number(block, 108, 8, entry.uid ?? 0);
  number(block, 116, 8, entry.gid ?? 0);
  number(block, 124, 12, entry.size ?? 0);
  number(block, 136, 12, entry.mtime ?? 1_600_000_000);
  block.write(entry.type ?? '0', 156, 1, 'latin1');
  Buffer.from(entry.linkName ?? '').copy(block, 157, 0, 100);
  if (format !== 'v7') {
    block.write(format === 'gnu' ? 'ustar  \0' : 'ustar\x0000', 257, 8, 'latin1');
    number(block, 329, 8, entry.devMajor ?? 0);
    number(block, 337, 8, entry.devMinor ?? 0);
  }
  entry.patch?.(block);
  return checksummed(block);
}

/** Writes the correct checksum into the block. */
export function checksummed(block: Buffer): Buffer {
  block.fill(0x20, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 8, 'latin1');
  return block;
}

/** Octal if the number fits, otherwise base-256. */
function number(block: Buffer, at: number, length: number, value: number | bigint): void {
  const big = BigInt(value);
  const digits = big.toString(8);
  if (big >= 0n && digits.length < length) {
    block.write(`${digits.padStart(length - 1, '0')}\0`, at, length, 'latin1');
    return;
  }
  let rest = BigInt.asUintN(8 * length, big);
  for (let i = length - 1; i >= 0; i--) {
    block[at + i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  block[at] = (block[at] ?? 0) | 0x80;
}

export function padded(content: Buffer): Buffer {
  return Buffer.concat([content, Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK)]);
}
