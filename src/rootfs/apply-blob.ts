import { decompress, describe } from '../archive/compression.ts';
import { type LayerLimits, TarReader } from '../archive/tar-reader.ts';
import type { Checkpoint } from '../diff/layer-budget.ts';
import { LayerWriter, type WrittenLayer } from '../diff/layer-writer.ts';
import type { PassFindings } from '../diff/second-pass.ts';
import type { DiffTarget } from '../diff/target.ts';
import { throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { algorithmOf, type DiffId } from '../oci/digest.ts';
import { type Compression, layerCompression } from '../oci/media-type.ts';
import type { BlobSource } from '../source/blob-source.ts';
import { FetchStatistics, fetchBlob } from '../source/fetch.ts';
import { type StreamHash, streamHash } from '../system/stream-hash.ts';
import type { AppliedDiff, ApplyProgress } from './applier.ts';
import { inPlace } from './in-place.ts';

export interface BlobApplication {
  readonly source: BlobSource;
  readonly blob: Descriptor;
  readonly target: DiffTarget;
  /** What the pass before over this layer has found. */
  readonly findings?: PassFindings | undefined;
  /** What the tar should be. It is digested as this is; the caller compares. */
  readonly diffId: DiffId;
  readonly limits: LayerLimits;
  /** Call native decompressors directly. */
  readonly native: boolean;
  /** Whether every core has a layer to write: then nothing is handed to further threads. */
  readonly busy: () => boolean;
  readonly signal: AbortSignal;
  /** Asked within long work: throws, and `signal` says why, where that is to be given up. */
  readonly checkpoint: Checkpoint;
  readonly onProgress: (progress: ApplyProgress) => void;
}

/** Failures that a corrupted download can look like. */
const MAYBE_CORRUPTED = new Set(['LAYER_CORRUPT', 'LAYER_UNSAFE', 'LIMIT_EXCEEDED', 'DIFF_ID_MISMATCH']);

/**
 * Streams one blob into a directory: fetch, decompress, digest, read, write, all at once and nothing kept in between.
 * The files are written with synchronous calls, so it belongs on a thread of its own; decompression runs beside it.
 * @throws UnpackError; what has been written by then stays for the caller to remove
 */
export async function applyBlob(work: BlobApplication): Promise<AppliedDiff> {
  const { source, blob, target, limits, signal } = work;
  const started = performance.now();
  const statistics = new FetchStatistics();
  const algorithm = algorithmOf(work.diffId);
  using digest = streamHash(algorithm, 'beside');
  using writer = new LayerWriter(target, {
    rememberedBytes: limits.rememberedBytes,
    findings: work.findings,
    checkpoint: work.checkpoint,
  });
  const reader = new TarReader(writer, limits);
  const download = new Download(fetchBlob(source, blob, { signal, statistics, busy: work.busy }));
  const promised = layerCompression(blob.mediaType);
  let found: Compression = promised;
  let unpacked = 0;
  /** Milliseconds without a piece to write: for want of the blob's bytes, and while there were bytes to inflate. */
  let [fetchMs, decompressMs] = [0, 0];
  try {
    const pieces = decompress(download, {
      isTar: algorithm === algorithmOf(blob.digest) ? blob.digest === (work.diffId as string) : undefined,
      native: work.native,
      busy: work.busy,
      memory: limits.rememberedBytes,
      found: (compression) => {
        found = compression;
      },
    });
    try {
      for (;;) {
        const [asked, waited] = [performance.now(), statistics.waitMs];
        const piece = await pieces.next();
        const fetching = statistics.waitMs - waited;
        fetchMs += fetching;
        decompressMs += performance.now() - asked - fetching;
        if (piece.done) break;
        throwIfAborted(signal);
        unpacked += piece.value.length;
        if (unpacked > limits.uncompressedBytes) throw tooLong(limits);
        await both(digest, piece.value, work.busy(), () => reader.write(piece.value));
        work.onProgress({ fetched: statistics.bytes, unpacked, entries: reader.entries, fetchMs, decompressMs });
      }
    } finally {
      await pieces.return?.(undefined);
    }
    // an uncompressed tar and its blob end together, a compressed one may end before: its bytes must still be right
    await download.drain();
    reader.finish();
    writer.finish();
  } catch (error) {
    throwIfAborted(signal);
    throw await whatWentWrong(inPlace(error, target.root), download);
  } finally {
    await download.close();
  }
  let written: WrittenLayer;
  try {
    written = writer.settle();
  } catch (error) {
    throwIfAborted(signal);
    throw inPlace(error, target.root);
  }
  const totalMs = performance.now() - started;
  return {
    digest: `${algorithm}:${digest.hex()}` as DiffId,
    compressedBytes: statistics.bytes,
    uncompressedBytes: unpacked,
    entries: reader.entries,
    timings: { fetchMs, decompressMs, writeMs: totalMs - fetchMs - decompressMs, totalMs },
    ...written,
    warnings: [...otherThanPromised(blob.mediaType, promised, found, statistics.bytes), ...written.warnings],
  };
}

/** The label can't be mended without another digest, so the layer is unpacked as what it is, and whoever pushed it is told. */
function otherThanPromised(mediaType: string, promised: Compression, found: Compression, bytes: number): string[] {
  if (found === promised) return [];
  const actual = bytes === 0 ? 'there are none, which is an empty tar' : `they are ${describe(found)}`;
  return [
    `its media type ${mediaType} promises that its bytes are ${describe(promised)}, but ${actual}; unpacked as such`,
  ];
}

/** Digests a piece and writes it, at the same time unless every core has work. */
async function both(digest: StreamHash, piece: Buffer, busy: boolean, write: () => void): Promise<void> {
  if (busy) {
    digest.update(piece);
    write();
    return;
  }
  const digesting = digest.updateBeside(piece);
  try {
    write();
  } finally {
    // the piece and the digest must stay until then, whatever the writing came to
    await digesting;
  }
}

/** A blob on its way, for a reader that may stop early while the download goes on. */
class Download implements AsyncIterable<Buffer> {
  private readonly chunks: AsyncGenerator<Buffer>;
  /** What the download itself failed with, whoever asked for the bytes. */
  private failure: unknown;

  constructor(chunks: AsyncGenerator<Buffer>) {
    this.chunks = chunks;
  }

  /** Without `return`: a reader that leaves early does not end the download. */
  [Symbol.asyncIterator](): AsyncIterator<Buffer> {
    return { next: () => this.next() };
  }

  async next(): Promise<IteratorResult<Buffer>> {
    try {
      return await this.chunks.next();
    } catch (error) {
      this.failure = error;
      throw error;
    }
  }

  /** Reads the rest, so that size and digest are known to be right. */
  async drain(): Promise<void> {
    while (!(await this.next()).done);
    if (this.failure !== undefined) throw this.failure;
  }

  async close(): Promise<void> {
    await this.chunks.return(undefined);
  }
}

/**
 * A blob that arrived damaged fails in the decompressor or in the archive long before its digest is known. The rest is
 * read to tell that apart from a layer that was built wrong: what the download says comes first.
 */
async function whatWentWrong(failure: UnpackError, download: Download): Promise<UnpackError> {
  if (!MAYBE_CORRUPTED.has(failure.code)) return failure;
  try {
    await download.drain();
  } catch (later) {
    const cause = toUnpackError(later);
    if (cause.code === 'BLOB_DIGEST_MISMATCH' || cause.code === 'BLOB_SIZE_MISMATCH') return cause;
  }
  return failure;
}

function tooLong(limits: LayerLimits): UnpackError {
  return new UnpackError(
    'LIMIT_EXCEEDED',
    `the layer is longer than ${limits.uncompressedBytes} bytes uncompressed, the limit (UNPACK_MAX_LAYER_BYTES)`,
  );
}
