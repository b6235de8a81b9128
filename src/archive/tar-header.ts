import type { Timespec } from '../system/files.ts';
import { parseNumeric, parseOctal } from './tar-numbers.ts';

export const BLOCK = 512;

export type TarFormat = 'v7' | 'ustar' | 'star' | 'gnu';

/** The fields of one header block, for TarReader. PAX records and long names can replace some of them. */
export interface TarHeader {
  readonly format: TarFormat;
  readonly typeFlag: number;
  name: Buffer;
  linkName: Buffer;
  size: bigint | number;
  readonly mode: bigint | number;
  uid: bigint | number;
  gid: bigint | number;
  mtime: WideTime;
  atime: WideTime | undefined;
  readonly devMajor: bigint | number;
  readonly devMinor: bigint | number;
}

/** A time in an archive. It can be outside of the range of a file system. */
export interface WideTime {
  readonly seconds: bigint | number;
  readonly nanoseconds: number;
}

const NOTHING = Buffer.alloc(0);

/** A copy of the bytes from `from` up to `to`, or up to the first NUL. */
export function textField(block: Buffer, from = 0, to = block.length): Buffer {
  let end = from;
  while (end < to && block[end] !== 0) end++;
  return end === from ? NOTHING : Buffer.from(block.subarray(from, end));
}

/** The format of a header block, from its magic fields. `undefined` if its checksum is wrong. */
function formatOf(block: Buffer): TarFormat | undefined {
  const expected = parseOctal(block, 148, 156);
  if (expected === undefined) return undefined;
  // the checksum itself counts as spaces
  const unsigned = sumOf(block, 0, 148) + 8 * 0x20 + sumOf(block, 156, BLOCK);
  if (unsigned !== expected && unsigned - 256 * highBytes(block) !== expected) return undefined;
  if (!hasAt(block, 257, USTAR)) return 'v7';
  if (block[262] === 0) return hasAt(block, 508, STAR_END) ? 'star' : 'ustar';
  return hasAt(block, 262, GNU_END) ? 'gnu' : 'v7';
}

const USTAR = Buffer.from('ustar');
const STAR_END = Buffer.from('tar\0');
const GNU_END = Buffer.from('  \0');

function hasAt(block: Buffer, at: number, text: Buffer): boolean {
  for (let i = 0; i < text.length; i++) if (block[at + i] !== text[i]) return false;
  return true;
}

/** The sum of bytes. Both bounds are multiples of four. */
function sumOf(block: Buffer, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i += 4) {
    sum += (block[i] ?? 0) + (block[i + 1] ?? 0) + (block[i + 2] ?? 0) + (block[i + 3] ?? 0);
  }
  return sum;
}

/** Counts bytes with the high bit, outside of the checksum field. Some old tars summed signed bytes. */
function highBytes(block: Buffer): number {
  let count = 0;
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) count += (block[i] ?? 0) >> 7;
  return count;
}

const ZERO_BLOCK = Buffer.alloc(BLOCK);

/** Whether a block has only zeros, as at the end of an archive. */
export const isZeroBlock = (block: Buffer): boolean => block[0] === 0 && block.equals(ZERO_BLOCK);

/** Whether bytes begin with a tar header. Compressed data do not have its checksum by chance. */
export function beginsWithTarHeader(bytes: Buffer): boolean {
  return bytes.length >= BLOCK && typeof parseTarHeader(bytes.subarray(0, BLOCK)) !== 'string';
}

/** Parses a header block. @returns the header; or, if it is malformed, the error as a phrase */
export function parseTarHeader(block: Buffer): TarHeader | string {
  const format = formatOf(block);
  if (format === undefined) return 'a header with a wrong checksum';
  const numbers = (from: number, to: number): bigint | number | undefined => parseNumeric(block, from, to);
  const mode = numbers(100, 108);
  const uid = numbers(108, 116);
  const gid = numbers(116, 124);
  const size = numbers(124, 136);
  const mtime = numbers(136, 148);
  const modern = format !== 'v7';
  const devMajor = modern ? numbers(329, 337) : 0;
  const devMinor = modern ? numbers(337, 345) : 0;
  if (
    mode === undefined ||
    uid === undefined ||
    gid === undefined ||
    size === undefined ||
    mtime === undefined ||
    devMajor === undefined ||
    devMinor === undefined
  ) {
    return 'a header with a malformed number';
  }
  let name = textField(block, 0, 100);
  let prefix: Buffer | undefined;
  let atime: WideTime | undefined;
  if (format === 'ustar') {
    prefix = textField(block, 345, 500);
  } else if (format === 'star') {
    prefix = textField(block, 345, 476);
    const seconds = numbers(476, 488);
    if (seconds === undefined || numbers(488, 500) === undefined) return 'a header with a malformed time';
    atime = { seconds, nanoseconds: 0 };
  } else if (format === 'gnu') {
    const accessed = block[345] === 0 ? null : numbers(345, 357);
    const changed = block[357] === 0 ? null : numbers(357, 369);
    if (accessed === undefined || changed === undefined) {
      // Go before 1.8 wrote a ustar prefix in the place of GNU's times (golang.org/issue/12594)
      const text = textField(block, 345, 500);
      if (text.every((byte) => byte < 0x80)) prefix = text;
    } else if (accessed !== null) {
      atime = { seconds: accessed, nanoseconds: 0 };
    }
  }
  if (prefix !== undefined && prefix.length > 0) name = Buffer.concat([prefix, SLASH, name]);
  return {
    format,
    typeFlag: block[156] ?? 0,
    name,
    linkName: textField(block, 157, 257),
    size,
    mode,
    uid,
    gid,
    mtime: { seconds: mtime, nanoseconds: 0 },
    atime,
    devMajor,
    devMinor,
  };
}

const SLASH = Buffer.from('/');

/** The latest time that is written: 2^63 - 1 nanoseconds after 1970, containerd's limit. */
const LAST_SECOND = 9_223_372_036;
const LAST_NANOSECOND = 854_775_807;
const EPOCH: Timespec = { seconds: 0, nanoseconds: 0 };

/** The time for the file system. Times before 1970 and after 2262 become 1970, as in containerd. */
export function boundTime(time: WideTime): Timespec {
  const { seconds, nanoseconds } = time;
  if (seconds < 0 || seconds > LAST_SECOND || (Number(seconds) === LAST_SECOND && nanoseconds > LAST_NANOSECOND)) {
    return EPOCH;
  }
  return { seconds: Number(seconds), nanoseconds };
}
