import { UnpackError } from '../errors.ts';
import type { Compression } from '../oci/media-type.ts';
import { gunzip } from './gzip.ts';
import { never } from './members.ts';
import { BLOCK, beginsWithTarHeader } from './tar-header.ts';
import { unzstd } from './zstd.ts';
import { isFrameMagic, MAX_WINDOW } from './zstd-frames.ts';

export interface DecompressOptions {
  /**
   * Whether the digest of the blob equals the DiffID, so that the blob is the tar itself. `undefined` if there is no
   * DiffID, or if the two digests use different algorithms.
   */
  readonly isTar?: boolean | undefined;
  /**
   * Whether ISA-L (for gzip, if it is installed) and the zstd inside Node are used instead of node:zlib. Default: yes.
   */
  readonly native?: boolean;
  /** Called for each piece. Returns whether all cores are busy; if so, native code runs on this thread. Default: no. */
  readonly busy?: () => boolean;
  /** Maximum size of a zstd window in bytes. The decompressor keeps the window in memory. */
  readonly memory?: number;
  /** Called once, before the first piece. */
  readonly found?: (compression: Compression) => void;
}

/**
 * The tar inside a blob, in pieces of up to a megabyte. Reads all members of a gzip blob and all frames of a zstd blob. A
 * piece is valid until the next one is requested.
 *
 * If the blob's digest is its DiffID, the blob is a tar, even if its first name looks like compressed data. Otherwise the
 * first bytes decide, as in containerd. The media type never decides, because a mirror cannot correct it.
 * @throws UnpackError LAYER_CORRUPT for malformed or truncated data and for bytes after the compressed data;
 * LIMIT_EXCEEDED for a zstd window that is too large; DIFF_ID_MISMATCH if the blob should be the tar itself and is
 * compressed
 */
export async function* decompress(
  chunks: AsyncIterable<Buffer>,
  { isTar, native = true, busy = never, memory = MAX_WINDOW, found }: DecompressOptions = {},
): AsyncGenerator<Buffer> {
  const head = new Head(chunks[Symbol.asyncIterator]());
  try {
    const compression = await compressionOf(head, isTar);
    found?.(compression);
    if (compression === 'gzip') yield* gunzip(head.whole(), native, busy);
    else if (compression === 'zstd') yield* unzstd(head.whole(), native, busy, memory);
    else yield* head.whole();
  } finally {
    await head.close();
  }
}

async function compressionOf(head: Head, isTar: boolean | undefined): Promise<Compression> {
  const compression = byMagic(await head.first(4));
  if (compression === 'none' || isTar === false) return compression;
  if (beginsWithTarHeader(await head.first(BLOCK))) return 'none';
  if (isTar === undefined) return compression;
  throw new UnpackError(
    'DIFF_ID_MISMATCH',
    `the image's config gives the digest of the blob as the DiffID of the layer, but the blob is ${describe(compression)} and not the tar itself; build the image again`,
  );
}

/** The compression, from the first four bytes. */
export function byMagic(head: Buffer): Compression {
  if (head[0] === 0x1f && head[1] === 0x8b) return 'gzip';
  return head.length >= 4 && isFrameMagic(head.readUInt32LE(0)) ? 'zstd' : 'none';
}

/** For messages: `the blob is …`. */
export const describe = (compression: Compression): string =>
  compression === 'none' ? 'an uncompressed tar' : `${compression} data`;

/** A stream whose first bytes can be read in advance. */
class Head {
  private readonly chunks: AsyncIterator<Buffer>;
  private bytes: Buffer = Buffer.alloc(0);
  private ended = false;

  constructor(chunks: AsyncIterator<Buffer>) {
    this.chunks = chunks;
  }

  /** At least `length` bytes from the start, or all if the stream is shorter. Valid until the next call of a method. */
  async first(length: number): Promise<Buffer> {
    while (this.bytes.length < length && !this.ended) {
      // copied, because a chunk is valid only until the next one is requested
      const copy = Buffer.from(this.bytes);
      const next = await this.chunks.next();
      this.ended = next.done === true;
      if (next.done) this.bytes = copy;
      else this.bytes = copy.length === 0 ? next.value : Buffer.concat([copy, next.value]);
    }
    return this.bytes;
  }

  /** The whole stream. Can be read once. */
  async *whole(): AsyncGenerator<Buffer> {
    if (this.bytes.length > 0) yield this.bytes;
    while (!this.ended) {
      const next = await this.chunks.next();
      if (next.done) return;
      yield next.value;
    }
  }

  async close(): Promise<void> {
    await this.chunks.return?.();
  }
}
