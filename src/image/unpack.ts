import type { ChainId } from '../oci/digest.ts';
import type { RuntimeConfig } from '../oci/image-config.ts';
import type { Log } from '../rootfs/applier.ts';
import type { LockWait } from '../rootfs/lock-waits.ts';
import type { Owner } from '../snapshots/holder.ts';
import type { Mount } from '../snapshots/snapshotter.ts';
import type { SourceSpec } from '../source/source-spec.ts';
import type { ImageState, LayerWatcher } from './progress.ts';
import type { ImageRequest, ResolvedImage } from './request.ts';

/** The interface of the unpacker, for the queue and the command line; `unpacker.ts` implements it. */

/** What to unpack, and from where. */
export interface WantedImage {
  /** As the job or the user calls it. It is recorded in the store, and never fetched from. */
  readonly image: string;
  readonly source: SourceSpec;
  readonly request: ImageRequest;
}

/** Unpacks images from sources into one snapshot store. Any number of calls can run at the same time. */
export interface Unpacker {
  /**
   * The result of unpacking, if the image is in the cache, all its layers are in the store, and the store needs no new
   * record of it; else `undefined`. It sends no request, so the result for a tag is always `undefined`. The result is
   * shared, so callers must not change it.
   */
  lookUpCached(wanted: WantedImage): Promise<readonly UnpackedImage[] | undefined>;
  /**
   * Resolves the image and looks it up in the store. If all its layers are there, it is recorded as used. Cached
   * documents are not read again, so for an image in the store at most the tag is requested.
   * @throws UnpackError as `resolveImages`; STORE_FULL, STORE_FAILED; INVALID_JOB, before any request, if the store cannot
   *   record the reference
   */
  lookUp(wanted: WantedImage, options?: LookUpOptions): Promise<Lookup>;
  /**
   * Applies the missing layers of the images that `lookUp` has found, and commits them.
   * @throws UnpackError; layers that are already committed stay
   */
  unpack(found: Lookup, options?: UnpackOptions): Promise<UnpackedImage[]>;
  /** Stops the apply threads. Abort running calls first. */
  close(): Promise<void>;
}

/** The checks of the store that decide whether the queue takes jobs. */
export interface StoreKeeper {
  /** Removes what failed layers left behind. Errors are only logged. */
  tidy(log?: Log): Promise<void>;
  /** Tests whether a layer can be written now. @throws UnpackError STORE_FULL, STORE_FAILED */
  check(log?: Log): Promise<void>;
  /** The other process that holds the lock on this layer now, if there is one. */
  heldElsewhere(chainId: ChainId): LockWait | undefined;
}

/** The images of a request, and whether the store has them. */
export interface Lookup {
  readonly wanted: WantedImage;
  readonly images: readonly ResolvedImage[];
  /** When the lookup began, by `performance.now()`. */
  readonly began: number;
  /**
   * The result of unpacking, if the store has all layers of all images. It is shared, so callers must not change it.
   */
  readonly existing: readonly UnpackedImage[] | undefined;
}

/** One image after unpacking: every layer was applied or existed. It is recorded in the store. */
export interface UnpackedImage extends ImageState {
  /** How its containers run; absent for explicit layers. */
  readonly config?: RuntimeConfig;
  /** The names by which other programs find it, as `ImageRecords.namesOf` returns them. Empty in our own store. */
  readonly names: readonly string[];
  /** How to mount it read-only. Empty for an image without layers. */
  readonly mounts: readonly Mount[];
  /** One sentence for each thing that was left out, and for each deviation of the documents from the specification. */
  readonly warnings: readonly string[];
  /** Whether all its layers were on disk when the call settled. Otherwise a power cut can take them. */
  readonly durable: boolean;
}

export interface LookUpOptions {
  readonly signal?: AbortSignal | undefined;
  /** The ID of the job, for the record in the store. */
  readonly job?: string | undefined;
}

export interface UnpackOptions {
  /** Labels for every snapshot that this call commits. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** The worker and the job that unpack. Other processes report them while they wait for a layer. The job is recorded. */
  readonly owner?: Owner | undefined;
  /**
   * Called once, after the call has done nothing for some seconds except waiting for a layer that another process has
   * locked.
   */
  readonly onBlocked?: ((wait: LockWait) => void) | undefined;
  /** Called once with the states of all images when they are resolved. The states change until the call settles. */
  readonly onResolved?: ((images: readonly ImageState[]) => void) | undefined;
  readonly watcher?: LayerWatcher | undefined;
  readonly log?: Log | undefined;
}
