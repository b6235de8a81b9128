import { UnpackError } from '../errors.ts';
import type { Compression } from '../oci/media-type.ts';
import { gunzip } from './gzip.ts';
import { never } from './members.ts';
import { BLOCK, beginsWithTarHeader } from './tar-header.ts';
import { unzstd } from './zstd.ts';
import { isFrameMagic, MAX_WINDOW } from './zstd-frames.ts';

export interface DecompressOptions {
  /**
   * Whether the blob is known to be the tar itself, since its digest is the DiffID, or not to be. `undefined`: nothing is
   * known, or the two digests are of different algorithms.
   */
  readonly isTar?: boolean | undefined;
  /** Whether native code may be called directly: ISA-L for gzip, where it is installed, and Node's own zstd. Default: yes. */
  readonly native?: boolean;
  /** Whether every core has work already, asked for each piece; then native code runs on this thread. Default: no. */
  readonly busy?: () => boolean;
  /** Bytes of memory for what must be kept of the tar to inflate the rest. */
  readonly memory?: number;
  /** Told once what the blob is, before the first piece. */
  readonly found?: (compression: Compression) => void;
}

/**
 * The tar inside a blob, in pieces of up to a megabyte. All members of a gzip blob and all frames of a zstd blob count.
 * The bytes of a piece stay valid until the next is asked for.
 *
 * A blob that is its own DiffID is a tar, whatever it begins with: the first name in it may begin as gzip data do. Else its
 * first bytes decide, as they do for containerd, and never its media type, which nobody can mend in a mirror.
 * @throws UnpackError LAYER_CORRUPT for malformed or truncated data and for bytes after its end; LIMIT_EXCEEDED for zstd
 * windows that are too large; DIFF_ID_MISMATCH for compressed data that should be their own tar
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

/** Compression by its magic bytes; four are enough. */
export function byMagic(head: Buffer): Compression {
  if (head[0] === 0x1f && head[1] === 0x8b) return 'gzip';
  return head.length >= 4 && isFrameMagic(head.readUInt32LE(0)) ? 'zstd' : 'none';
}

/** For a sentence: `the blob is …`. */
export const describe = (compression: Compression): string =>
  compression === 'none' ? 'an uncompressed tar' : `${compression} data`;

/** Chunks whose first bytes are looked at before they are read. */
class Head {
  private readonly chunks: AsyncIterator<Buffer>;
  private bytes: Buffer = Buffer.alloc(0);
  private ended = false;

  constructor(chunks: AsyncIterator<Buffer>) {
    this.chunks = chunks;
  }

  /** So many bytes from the start or more, fewer where there are no more; valid until this or `whole` is called again. */
  async first(length: number): Promise<Buffer> {
    while (this.bytes.length < length && !this.ended) {
      // the bytes at hand may be a chunk, which is lent until the next is asked for
      const copy = Buffer.from(this.bytes);
      const next = await this.chunks.next();
      this.ended = next.done === true;
      if (next.done) this.bytes = copy;
      else this.bytes = copy.length === 0 ? next.value : Buffer.concat([copy, next.value]);
    }
    return this.bytes;
  }

  /** All chunks, the first ones included. To be read once. */
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
