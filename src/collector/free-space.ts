import type { Disk, Space } from '../system/space.ts';
import { bytesText, parseBytes } from '../units.ts';

/**
 * Amounts of free space: as a setting names them, and what a disk lacks of them. The settings, the collector and `unpackd
 * gc` use them.
 */

/** Free space of a file system: a share of its bytes and of its inodes, or a number of bytes. */
export type FreeSpace = { readonly percent: number } | { readonly bytes: number };

/** The marks between which the collector works: it starts below `low` and stops at `high`. */
export interface Marks {
  readonly low: FreeSpace;
  readonly high: FreeSpace;
}

/** An amount of bytes and inodes. */
export interface Amount {
  readonly bytes: number;
  readonly inodes: number;
}

export const NOTHING: Amount = { bytes: 0, inodes: 0 };

export function sum(one: Amount, other: Amount): Amount {
  return { bytes: one.bytes + other.bytes, inodes: one.inodes + other.inodes };
}

/** The larger number of bytes and the larger number of inodes. */
export function larger(one: Amount, other: Amount): Amount {
  return { bytes: Math.max(one.bytes, other.bytes), inodes: Math.max(one.inodes, other.inodes) };
}

const PERCENT = /^(\d+(?:\.\d+)?)\s*%$/;
const LEAST_PERCENT = 0.1;
const MOST_PERCENT = 99;
const LEAST_BYTES = 1 << 20;
const MOST_BYTES = 1024 ** 5;

/** What to write for an amount of free space. */
export const FREE_SPACE_SENTENCE =
  'write a share of the disk from 0.1% to 99%, or bytes with a unit from 1MiB to 1024TiB, for example 10% or 20GiB';

/** Parses `10%`, `20GiB`, or a number of bytes. @returns `undefined` if it is none of them, or out of bounds */
export function parseFreeSpace(text: string): FreeSpace | undefined {
  const [, share] = PERCENT.exec(text) ?? [];
  if (share !== undefined) {
    const percent = Number(share);
    return percent >= LEAST_PERCENT && percent <= MOST_PERCENT ? { percent } : undefined;
  }
  const bytes = parseBytes(text);
  return bytes >= LEAST_BYTES && bytes <= MOST_BYTES ? { bytes } : undefined;
}

/** `10%` or `20.0 GiB`. */
export function freeSpaceText(amount: FreeSpace): string {
  return 'percent' in amount ? `${amount.percent}%` : bytesText(amount.bytes);
}

/** The bytes of an amount on this disk. */
export function bytesOn(disk: Pick<Disk, 'totalBytes'>, amount: FreeSpace): number {
  return 'percent' in amount ? Math.ceil((disk.totalBytes * amount.percent) / 100) : amount.bytes;
}

/** The bytes and inodes of an amount on this disk. */
export function amountOn(disk: Disk, amount: FreeSpace): Amount {
  const inodes =
    'percent' in amount && disk.totalInodes !== undefined ? Math.ceil((disk.totalInodes * amount.percent) / 100) : 0;
  return { bytes: bytesOn(disk, amount), inodes };
}

/** What must be freed on this disk until it has `wanted` free. Both numbers are 0 if it has. */
export function missingOf(disk: Disk, wanted: Amount): Amount {
  return {
    bytes: Math.max(0, wanted.bytes - disk.bytes),
    inodes: Math.max(0, wanted.inodes - (disk.inodes ?? Number.POSITIVE_INFINITY)),
  };
}

/** Whether less than `mark` is free on this disk. */
export function isBelow(disk: Disk, mark: FreeSpace): boolean {
  return !isNothing(missingOf(disk, amountOn(disk, mark)));
}

/** The disk when `amount` more is free. */
export function plus(disk: Disk, amount: Amount): Disk {
  const inodes = disk.inodes === undefined ? undefined : disk.inodes + amount.inodes;
  return { ...disk, bytes: disk.bytes + amount.bytes, inodes };
}

/** Whether nothing is missing. */
export function isNothing({ bytes, inodes }: Amount): boolean {
  return bytes <= 0 && inodes <= 0;
}

/** Compares two amounts that are written alike. @returns whether `low` is less; `undefined` if only the disk decides */
export function isLess(low: FreeSpace, high: FreeSpace): boolean | undefined {
  if ('percent' in low) return 'percent' in high ? low.percent < high.percent : undefined;
  return 'bytes' in high ? low.bytes < high.bytes : undefined;
}

/**
 * Checks the marks against the disk of a store.
 * @returns a sentence that names the wrong setting; `undefined` if the collector can work with them
 */
export function marksProblem({ low, high }: Marks, disk: Disk, root: string): string | undefined {
  const size = `the disk of ${root} has ${bytesText(disk.totalBytes)}`;
  for (const [name, mark] of [
    ['UNPACK_GC_LOW', low],
    ['UNPACK_GC_HIGH', high],
  ] as const) {
    if (bytesOn(disk, mark) >= disk.totalBytes) {
      return `${name}=${freeSpaceText(mark)} can never be free, because ${size}: write less`;
    }
  }
  if (bytesOn(disk, low) < bytesOn(disk, high)) return undefined;
  return `${notLessText({ low, high })}, because ${size}: write a smaller UNPACK_GC_LOW`;
}

/** The beginning of a sentence about marks that are not in order. */
export function notLessText({ low, high }: Marks): string {
  return `UNPACK_GC_LOW=${freeSpaceText(low)} is not less than UNPACK_GC_HIGH=${freeSpaceText(high)}`;
}

/** `3.2 GiB and 120,000 inodes`; without inodes if the file system has no fixed number of them. */
export function spaceText({ bytes, inodes }: Space): string {
  const nodes = inodes === undefined ? '' : ` and ${inodes.toLocaleString('en-US')} inodes`;
  return `${bytesText(bytes)}${nodes}`;
}
