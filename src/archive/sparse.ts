import { type PaxRecords, SPARSE_MAP } from './pax.ts';
import { parseDecimal, parseNumeric } from './tar-numbers.ts';

/** A range of a sparse file that has data. Between two ranges is a hole. */
export interface SparseExtent {
  readonly offset: number;
  readonly length: number;
}

/** Where the map of a GNU sparse file is: in its PAX records (formats 0.0 and 0.1), or before its data (1.0). */
export type SparseVersion = 'records' | 'data';

/** The sparse format in a file's PAX records. `undefined` for an ordinary file, and for an unknown format. */
export function sparseVersion(records: PaxRecords): SparseVersion | undefined {
  const text = (key: string): string => records.get(key)?.toString('latin1') ?? '';
  const major = text('GNU.sparse.major');
  const minor = text('GNU.sparse.minor');
  if (major === '0' && (minor === '0' || minor === '1')) return 'records';
  if (major === '1' && minor === '0') return 'data';
  if (major !== '' || minor !== '') return undefined;
  return text(SPARSE_MAP) === '' ? undefined : 'records';
}

/** The map of formats 0.0 and 0.1; `undefined` if it is malformed. */
export function sparseMapOfRecords(records: PaxRecords): SparseExtent[] | undefined {
  const count = parseDecimal(records.get('GNU.sparse.numblocks')?.toString('latin1') ?? '');
  const map = records.get(SPARSE_MAP)?.toString('latin1') ?? '';
  const numbers = map === '' ? [] : map.split(',');
  if (count === undefined || count < 0n || BigInt(numbers.length) !== 2n * count) return undefined;
  return extents(numbers.map(parseDecimal));
}

/**
 * The number of lines in a map of format 1.0: the number of extents, then the offset and the length of each, in decimal.
 * @param blocks the start of the map, with a complete first line
 * @returns 0 if the first line is malformed
 */
export function sparseMapLines(blocks: readonly Buffer[]): number {
  const bytes = Buffer.concat(blocks);
  const count = parseDecimal(bytes.toString('latin1', 0, bytes.indexOf(0x0a)));
  return count === undefined || count < 0n ? 0 : 1 + 2 * Number(count);
}

/** The complete map of format 1.0; `undefined` if it is malformed. */
export function sparseMapOfData(blocks: Buffer): SparseExtent[] | undefined {
  const [first = '', ...lines] = blocks.toString('latin1').split('\n');
  const count = parseDecimal(first);
  if (count === undefined || count < 0n || BigInt(lines.length) < 2n * count) return undefined;
  return extents(lines.slice(0, 2 * Number(count)).map(parseDecimal));
}

/** The extents of an old GNU sparse header or of an extension block, until the first empty one. */
export function sparseMapOfHeader(fields: Buffer, slots: number): SparseExtent[] | undefined {
  const numbers: (bigint | undefined)[] = [];
  for (let i = 0; i < slots && fields[i * 24] !== 0; i++) {
    for (const at of [i * 24, i * 24 + 12]) {
      const value = parseNumeric(fields, at, at + 12);
      numbers.push(value === undefined ? undefined : BigInt(value));
    }
  }
  return extents(numbers);
}

function extents(numbers: readonly (bigint | undefined)[]): SparseExtent[] | undefined {
  const map: SparseExtent[] = [];
  for (let i = 0; i + 1 < numbers.length; i += 2) {
    const offset = numbers[i];
    const length = numbers[i + 1];
    if (offset === undefined || length === undefined || offset < 0n || length < 0n) return undefined;
    if (offset + length > BigInt(Number.MAX_SAFE_INTEGER)) return undefined;
    map.push({ offset: Number(offset), length: Number(length) });
  }
  return map;
}

/** Whether the extents ascend, do not overlap and end within the file. */
export function isValidSparseMap(map: readonly SparseExtent[], size: number): boolean {
  let end = 0;
  for (const extent of map) {
    if (extent.offset < end || extent.offset + extent.length > size) return false;
    end = extent.offset + extent.length;
  }
  return true;
}
