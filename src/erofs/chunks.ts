import { UnpackError } from '../errors.ts';
import type { Extent } from './file-contents.ts';
import { BLOCK, roundUp } from './format.ts';

/** An address of this byte alone stands for a hole. */
const HOLE_BYTE = 0xff;
/** Size of an address in the table of chunks. */
const ADDRESS = 4;
/** Number of chunk sizes that the format has: BLOCK × 2^0 to 2^31. */
const CHUNK_SIZES = 32;
/** Maximum size of the table of chunks and of the chunks that are written again, for one file: the index is built in memory. */
const MAX_CHUNK_BYTES = 256 * 1024 * 1024;

/** The content of a file with holes, as chunks of one size. A chunk lies in the tar, is a hole, or is written again behind the tar. */
export interface Chunks {
  /** The size of a chunk is BLOCK × 2^shift. */
  readonly shift: number;
  readonly extents: readonly Extent[];
  readonly size: number;
  /** Size of the table in bytes. */
  readonly tableBytes: number;
  /** Numbers of the chunks that are written again, ascending: their data begin or end inside a block of the tar. */
  readonly moved: readonly number[];
}

/**
 * Divides the content of a file into chunks of the size that needs the least space. A chunk that the tar does not have as whole
 * blocks is written again.
 * @param extents in ascending order, without overlaps
 * @param size of the file in bytes, above 0
 * @throws UnpackError LIMIT_EXCEEDED
 */
export function chunksOf(extents: readonly Extent[], size: number): Chunks {
  let best: Chunks | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (let shift = 0; shift < CHUNK_SIZES; shift++) {
    const chunk = BLOCK * 2 ** shift;
    const tableBytes = Math.ceil(size / chunk) * ADDRESS;
    const moved = movedChunks(extents, size, chunk);
    if (moved === undefined) continue;
    const bytes = tableBytes + moved.length * Math.min(chunk, roundUp(size, BLOCK));
    if (bytes < least) [best, least] = [{ shift, extents, size, tableBytes, moved }, bytes];
    if (chunk >= size) break;
  }
  if (best === undefined || least > MAX_CHUNK_BYTES) {
    throw new UnpackError(
      'LIMIT_EXCEEDED',
      `its content of ${size} bytes, in ${extents.length} pieces between holes, needs more than ${MAX_CHUNK_BYTES} bytes of chunks in an EROFS image; use the overlay store for this image`,
    );
  }
  return best;
}

/** The chunks that have data which the tar does not have as whole blocks. @returns `undefined` if they are too many */
function movedChunks(extents: readonly Extent[], size: number, chunk: number): number[] | undefined {
  const moved: number[] = [];
  const add = (number: number): void => {
    if (moved.at(-1) !== number) moved.push(number);
  };
  for (const { position, length, offset } of extents) {
    if (length === 0) continue;
    const end = position + length;
    const last = Math.floor((end - 1) / chunk);
    const aligned = (offset - position) % BLOCK === 0;
    if (!aligned) {
      const first = Math.floor(position / chunk);
      if ((last - first) * chunk > MAX_CHUNK_BYTES) return undefined;
      for (let each = first; each <= last; each++) add(each);
      continue;
    }
    if (position % chunk !== 0) add(Math.floor(position / chunk));
    if (end % chunk !== 0 && end !== size) add(last);
  }
  return moved;
}

/**
 * Fills the table of chunks.
 * @param tar the block where the tar begins
 * @param movedTo the block where the first of the moved chunks is written; the others follow
 * @returns the block after the last moved chunk
 */
export function writeChunkTable(to: Buffer, at: number, chunks: Chunks, tar: number, movedTo: number): number {
  const { shift, extents, tableBytes, moved } = chunks;
  const chunk = BLOCK * 2 ** shift;
  to.fill(HOLE_BYTE, at, at + tableBytes);
  for (const { position, length, offset } of extents) {
    const end = position + length;
    if ((offset - position) % BLOCK !== 0) continue; // all its chunks are moved
    for (let number = Math.ceil(position / chunk); number * chunk < end; number++) {
      to.writeUInt32LE(tar + (offset + number * chunk - position) / BLOCK, at + number * ADDRESS);
    }
  }
  let block = movedTo;
  for (const number of moved) {
    to.writeUInt32LE(block, at + number * ADDRESS);
    block += movedBlocks(chunks, number);
  }
  return block;
}

/** Number of blocks of a moved chunk. The last chunk of a file has only the blocks up to the end of the file. */
export function movedBlocks({ shift, size }: Chunks, number: number): number {
  const chunk = BLOCK * 2 ** shift;
  return Math.ceil(Math.min(chunk, size - number * chunk) / BLOCK);
}

/** The content of a moved chunk, with zeros for its holes. @param read reads from the tar */
export function movedContent(chunks: Chunks, number: number, read: (offset: number, into: Buffer) => void): Buffer {
  const chunk = BLOCK * 2 ** chunks.shift;
  const content = Buffer.alloc(movedBlocks(chunks, number) * BLOCK);
  const begin = number * chunk;
  for (const { position, length, offset } of chunks.extents) {
    const from = Math.max(position, begin);
    const end = Math.min(position + length, begin + content.length);
    if (from < end) read(offset + from - position, content.subarray(from - begin, end - begin));
  }
  return content;
}
