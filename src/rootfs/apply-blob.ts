import { decompress, describe } from '../archive/compression.ts';
import { TarReader } from '../archive/tar-reader.ts';
import type { Checkpoint } from '../diff/layer-budget.ts';
import { LayerWriter, type LayerWriterOptions, type WrittenLayer } from '../diff/layer-writer.ts';
import type { PassFindings } from '../diff/second-pass.ts';
import type { DiffTarget } from '../diff/target.ts';
import { throwIfAborted, toUnpackError, type UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { algorithmOf, type DiffId } from '../oci/digest.ts';
import { type Compression, layerCompression } from '../oci/media-type.ts';
import { failureAt } from '../snapshots/directories.ts';
import type { BlobSource } from '../source/blob-source.ts';
import { FetchStatistics, fetchBlob } from '../source/fetch.ts';
import { type StreamHash, streamHash } from '../system/stream-hash.ts';
import type { AppliedDiff, ApplyProgress, ApplySettings } from './applier.ts';

/** One layer, and where it is written. */
export interface LayerTask {
  readonly blob: Descriptor;
  /**
   * The expected digest of the tar. The tar is digested with the same algorithm, and the caller compares the digests.
   */
  readonly diffId: DiffId;
  readonly target: DiffTarget;
  /** The findings of the previous pass over the layer. */
  readonly findings?: PassFindings | undefined;
}

/** What applyBlob gets from the thread that runs it. */
export interface ApplyingThread {
  /** Whether every core has a layer to write. If so, no work is handed to further threads. */
  readonly busy: () => boolean;
  readonly signal: AbortSignal;
  /** Called during long synchronous work. It throws after `signal` has been aborted. */
  readonly checkpoint: Checkpoint;
  readonly onProgress: (progress: ApplyProgress) => void;
  /** Called when a request for the blob continues or repeats a failed one. */
  readonly onResume?: (() => void) | undefined;
}

/** Failures of the archive that can also be caused by a damaged download. */
const MAYBE_CORRUPTED = new Set(['LAYER_CORRUPT', 'LAYER_UNSAFE', 'LIMIT_EXCEEDED', 'DIFF_ID_MISMATCH']);

/**
 * Streams one blob into a directory: fetches, decompresses, digests, reads and writes at the same time, without a copy
 * of the blob. Files are written with synchronous calls, so run it on a thread of its own (workers/apply.ts);
 * decompression runs beside it.
 * @throws UnpackError. The caller removes what has been written.
 */
export async function applyBlob(
  source: BlobSource,
  { blob, diffId, target, findings }: LayerTask,
  { limits, native }: ApplySettings,
  { busy, signal, checkpoint, onProgress, onResume }: ApplyingThread,
): Promise<AppliedDiff> {
  const started = performance.now();
  const statistics = new FetchStatistics();
  const algorithm = algorithmOf(diffId);
  using digest = streamHash(algorithm, 'beside');
  using writer = openWriter(target, { memoryBytes: limits.memoryBytes, findings, checkpoint });
  const reader = new TarReader(writer, limits);
  const download = new Download(fetchBlob(source, blob, { signal, statistics, busy, onResume }));
  const declared = layerCompression(blob.mediaType);
  let actual: Compression = declared;
  /** Milliseconds without a piece to write: waiting for bytes of the blob, and waiting for the decompressor. */
  let [fetchMs, decompressMs] = [0, 0];
  try {
    const pieces = decompress(download, {
      isTar: algorithm === algorithmOf(blob.digest) ? blob.digest === (diffId as string) : undefined,
      native,
      busy,
      memory: limits.memoryBytes,
      found: (compression) => {
        actual = compression;
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
        await digestAndWrite(digest, piece.value, busy(), () => reader.write(piece.value));
        const { bytes: unpacked, entries } = reader;
        onProgress({ fetched: statistics.bytes, unpacked, entries, fetchMs, decompressMs });
      }
    } finally {
      await pieces.return?.(undefined);
    }
    // bytes can follow the compressed data; they must be read to verify size and digest of the blob
    await download.drain();
    reader.finish();
    writer.finish();
  } catch (error) {
    throwIfAborted(signal);
    throw await causeOf(failureAt(error, target.root, target.collectedBy), download);
  } finally {
    await download.close();
  }
  let written: WrittenLayer;
  try {
    written = writer.copyParentAttributes();
  } catch (error) {
    throwIfAborted(signal);
    throw failureAt(error, target.root, target.collectedBy);
  }
  const totalMs = performance.now() - started;
  return {
    digest: `${algorithm}:${digest.hex()}` as DiffId,
    compressedBytes: statistics.bytes,
    uncompressedBytes: reader.bytes,
    entries: reader.entries,
    timings: { fetchMs, decompressMs, writeMs: totalMs - fetchMs - decompressMs, totalMs },
    ...written,
    warnings: [...wrongMediaType(blob.mediaType, declared, actual, statistics.bytes), ...written.warnings],
  };
}

/** @throws UnpackError STORE_FAILED if the directory is missing, or is not the one that was prepared */
function openWriter(target: DiffTarget, options: LayerWriterOptions): LayerWriter {
  try {
    return new LayerWriter(target, options);
  } catch (error) {
    throw failureAt(error, target.root, target.collectedBy);
  }
}

/**
 * A warning for a media type that contradicts the bytes. The layer is unpacked anyway, because a corrected manifest
 * would have another digest.
 */
function wrongMediaType(mediaType: string, declared: Compression, actual: Compression, bytes: number): string[] {
  if (actual === declared) return [];
  const found = bytes === 0 ? 'it has no bytes, which is an empty tar' : `its bytes are ${describe(actual)}`;
  return [`its media type ${mediaType} means ${describe(declared)}, but ${found}; unpacked as such`];
}

/** Digests a piece and writes it, at the same time unless every core has work. */
async function digestAndWrite(digest: StreamHash, piece: Buffer, busy: boolean, write: () => void): Promise<void> {
  if (busy) {
    digest.update(piece);
    write();
    return;
  }
  const digesting = digest.updateBeside(piece);
  try {
    write();
  } finally {
    // the digest reads the piece, so the piece must stay valid until it is done, even if the write has failed
    await digesting;
  }
}

/**
 * The chunks of a blob, for a decompressor that can stop before the last byte of the blob. In this case `drain` reads
 * the rest.
 *
 *     reading → complete   after the last chunk
 *     reading → failed     by an error of the fetch
 *     any state → closed   by `close`
 *
 * A read in `failed` throws the same error again. A read in `closed` is a bug.
 */
class Download implements AsyncIterable<Buffer> {
  private readonly chunks: AsyncGenerator<Buffer>;
  private state: 'reading' | 'complete' | 'failed' | 'closed' = 'reading';
  /** The error of the fetch, in `failed`. */
  private failure: unknown;

  constructor(chunks: AsyncGenerator<Buffer>) {
    this.chunks = chunks;
  }

  /** The iterator has no `return`, so that the download continues when a reader stops early. */
  [Symbol.asyncIterator](): AsyncIterator<Buffer> {
    return { next: () => this.next() };
  }

  async next(): Promise<IteratorResult<Buffer>> {
    this.assertReadable();
    try {
      const chunk = await this.chunks.next();
      if (chunk.done) this.complete();
      return chunk;
    } catch (error) {
      if (this.state === 'reading') [this.state, this.failure] = ['failed', error];
      throw error;
    }
  }

  /** Reads the rest of the blob, which verifies its size and digest. @throws UnpackError as `fetchBlob` */
  async drain(): Promise<void> {
    while (!(await this.next()).done);
  }

  async close(): Promise<void> {
    this.state = 'closed';
    await this.chunks.return(undefined);
  }

  private assertReadable(): void {
    if (this.state === 'closed') throw new Error('a chunk was requested after the download was closed');
    if (this.state === 'failed') throw this.failure;
  }

  private complete(): void {
    // if two reads are pending and the first fails, the second returns no error
    if (this.state === 'failed') throw this.failure;
    if (this.state === 'reading') this.state = 'complete';
  }
}

/**
 * The error to report. A damaged blob causes an error in the decompressor or in the archive before its digest is known.
 * So the rest of the blob is read, and a wrong size or digest is reported as the cause.
 */
async function causeOf(failure: UnpackError, download: Download): Promise<UnpackError> {
  if (!MAYBE_CORRUPTED.has(failure.code)) return failure;
  try {
    await download.drain();
  } catch (later) {
    const cause = toUnpackError(later);
    if (cause.code === 'BLOB_DIGEST_MISMATCH' || cause.code === 'BLOB_SIZE_MISMATCH') return cause;
  }
  return failure;
}
