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
  apply(blob: Descriptor, mounts: readonly Mount[], options?: ApplyOptions): Promise<AppliedDiff>;
}

export interface ApplyOptions {
  /**
   * The layers below are not there yet: whiteouts are kept for them, and the directories that the archive needs but
   * never names are returned to be settled later.
   */
  readonly parentPending?: boolean;
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
}

export interface AppliedDiff {
  /** Digest of the uncompressed tar, by the algorithm of the layer's DiffID (sha256). */
  readonly digest: DiffId;
  /** Bytes of the blob. */
  readonly compressedBytes: number;
  /** Bytes of the tar. */
  readonly uncompressedBytes: number;
  readonly entries: number;
  readonly timings: ApplyTimings;
  /** Directories that entries needed and the archive never named, parents first, relative, as bytes. */
  readonly impliedDirectories: readonly Uint8Array[];
  /** Sentences for the job's result: what was left out and why. */
  readonly warnings: readonly string[];
}

/** Milliseconds that a layer's thread spent waiting for the network, waiting for the decompressor, and writing. */
export interface ApplyTimings {
  readonly fetchMs: number;
  readonly decompressMs: number;
  readonly writeMs: number;
  /** From the start of the work on a thread to its end. */
  readonly totalMs: number;
}
