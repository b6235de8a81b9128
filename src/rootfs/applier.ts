import type { WrittenLayer } from '../diff/layer-writer.ts';
import type { PassFindings } from '../diff/second-pass.ts';
import type { Below } from '../diff/target.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { DiffId } from '../oci/digest.ts';
import type { Mount } from '../snapshots/snapshotter.ts';

/** Writes one layer's blob into a prepared snapshot. */
export interface Applier {
  /**
   * Fetches, verifies, decompresses and writes `blob` into `mounts`. Nothing has been committed when it returns, and
   * the caller compares `digest` with the DiffID.
   * @throws UnpackError
   */
  apply(blob: Descriptor, mounts: readonly Mount[], options: ApplyOptions): Promise<AppliedDiff>;
}

export interface ApplyOptions {
  readonly below: Below;
  /** What the pass before over this layer has found; `undefined` in the first pass. */
  readonly findings?: PassFindings | undefined;
  /** What the tar should be: it is digested as this is, and a blob with this digest is the tar itself. */
  readonly diffId: DiffId;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ApplyProgress) => void) | undefined;
}

/** How far a layer has come. Counts only grow. */
export interface ApplyProgress {
  /** Bytes of the blob that have arrived. */
  readonly fetched: number;
  /** Bytes of the tar that have been written or read over. */
  readonly unpacked: number;
  readonly entries: number;
  /** Milliseconds that the thread has waited for the network, and for the decompressor; absent: nobody counts. */
  readonly fetchMs?: number;
  readonly decompressMs?: number;
}

export interface AppliedDiff extends WrittenLayer {
  /** Digest of the uncompressed tar. */
  readonly digest: DiffId;
  /** Bytes of the blob. */
  readonly compressedBytes: number;
  /** Bytes of the tar. */
  readonly uncompressedBytes: number;
  readonly entries: number;
  readonly timings: ApplyTimings;
}

/** How the thread of a layer spent its time, in milliseconds; the first three add up to the fourth. */
export interface ApplyTimings {
  /** Waiting for the network. */
  readonly fetchMs: number;
  /** Waiting for the decompressor. */
  readonly decompressMs: number;
  /** Digesting the tar and writing its entries. */
  readonly writeMs: number;
  /** From the start of the work on a thread to its end. */
  readonly totalMs: number;
}
