import type { LayerLimits } from '../archive/tar-reader.ts';
import type { WrittenLayer } from '../diff/layer-writer.ts';
import type { PassFindings } from '../diff/second-pass.ts';
import type { Below } from '../diff/target.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { DiffId } from '../oci/digest.ts';
import type { Mount } from '../snapshots/snapshotter.ts';

/** Writes one layer's blob into a prepared snapshot. `ApplyPool` implements it, `applyLayers` calls it. */
export interface Applier {
  /**
   * Fetches, verifies and decompresses `blob`, and writes it into `mounts`. The caller compares the digest of the result
   * with the DiffID, and commits the snapshot.
   * @throws UnpackError
   */
  apply(blob: Descriptor, mounts: readonly Mount[], options: ApplyOptions): Promise<AppliedDiff>;
}

/** Settings for reading layers. They are made once from the settings of the process, and passed on as one object. */
export interface ApplySettings {
  readonly limits: LayerLimits;
  /** Whether gzip and zstd are decompressed by native code (ISA-L, and the zstd inside Node) instead of node:zlib. */
  readonly native: boolean;
}

export interface ApplyOptions {
  /** The key of the snapshot, by which the writer recognises its directory. Absent if the mounts are not of a store. */
  readonly key?: string;
  readonly below: Below;
  /** The findings of the previous pass over this layer; `undefined` in the first pass. */
  readonly findings?: PassFindings | undefined;
  /**
   * The expected digest of the tar. Its algorithm is used for the tar, too. A blob with the same digest is the tar
   * itself.
   */
  readonly diffId: DiffId;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ApplyProgress) => void) | undefined;
}

/** The progress of one layer. Counts only grow. */
export interface ApplyProgress {
  /** Number of fetched bytes of the blob. */
  readonly fetched: number;
  /** Number of tar bytes that were read. */
  readonly unpacked: number;
  readonly entries: number;
  /** Milliseconds that the thread waited for the network, and for the decompressor; absent if not measured. */
  readonly fetchMs?: number;
  readonly decompressMs?: number;
}

export interface AppliedDiff extends WrittenLayer {
  /** Digest of the uncompressed tar. */
  readonly digest: DiffId;
  /** Size of the blob in bytes. */
  readonly compressedBytes: number;
  /** Size of the tar in bytes. */
  readonly uncompressedBytes: number;
  readonly entries: number;
  readonly timings: ApplyTimings;
}

/** The durations of the work on a layer in milliseconds. `totalMs` is the sum of the other three. */
export interface ApplyTimings {
  /** Waiting for the network. */
  readonly fetchMs: number;
  /** Waiting for the decompressor. */
  readonly decompressMs: number;
  /** Digesting the tar and writing its entries. */
  readonly writeMs: number;
  /** The whole work on the apply thread. */
  readonly totalMs: number;
}

/** Logs one sentence for the operator. */
export type Log = (level: 'info' | 'warn', sentence: string, fields?: Readonly<Record<string, unknown>>) => void;
