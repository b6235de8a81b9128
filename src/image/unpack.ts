import type { ChainId } from '../oci/digest.ts';
import type { Log } from '../rootfs/applier.ts';
import type { LockOwner, LockWait } from '../rootfs/lock-waits.ts';
import type { SourceSpec } from '../source/blob-source.ts';
import type { ImageState } from './progress.ts';
import type { ImageRequest, ResolvedImage } from './request.ts';

/** The interface of the unpacker, for the queue and the command line; `unpacker.ts` implements it. */

/** Unpacks images from sources into one snapshot store. Any number of calls may run at once. */
export interface Unpacker {
  /**
   * The result of unpacking, if the image is in the cache and all its layers are in the store; else `undefined`. No request
   * is sent, so a tag is never answered. The result is shared; do not change it.
   */
  lookUpCached(source: SourceSpec, request: ImageRequest): Promise<readonly UnpackedImage[] | undefined>;
  /**
   * Resolves the image and looks it up in the store. Nothing is changed. Cached documents are not read again, so an image
   * in the store costs at most the request for its tag.
   * @throws UnpackError as `resolveImages`
   */
  lookUp(source: SourceSpec, request: ImageRequest, signal?: AbortSignal): Promise<Lookup>;
  /**
   * Applies the missing layers of the images that `lookUp` has found, and commits them.
   * @throws UnpackError; layers that are committed already stay
   */
  unpack(found: Lookup, options?: UnpackOptions): Promise<UnpackedImage[]>;
  /** Ends the apply threads. Abort running calls first. */
  close(): Promise<void>;
}

/** What the queue needs to know of the store, to decide which jobs to take. */
export interface StoreKeeper {
  /** Removes what failed layers left behind. Errors are logged only. */
  tidy(log?: Log): Promise<void>;
  /** Tests whether a layer can be written now. @throws UnpackError STORE_FULL, STORE_FAILED */
  check(log?: Log): Promise<void>;
  /** The other process that holds the lock on this layer now, if there is one. */
  heldElsewhere(chainId: ChainId): LockWait | undefined;
}

/** The images of a request, and whether the store has them. */
export interface Lookup {
  readonly source: SourceSpec;
  readonly images: readonly ResolvedImage[];
  /** When the lookup began, by `performance.now()`. */
  readonly began: number;
  /** The result of unpacking, if the store has all layers of all images. It is shared; do not change it. */
  readonly existing: readonly UnpackedImage[] | undefined;
}

/** One image after unpacking: every layer was applied or existed. */
export interface UnpackedImage extends ImageState {
  /** What was left out and why, and deviations of the documents from the specification, one sentence each. */
  readonly warnings: readonly string[];
}

export interface UnpackOptions {
  /** Set on every snapshot that this call commits. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** The worker and job that unpack; other processes that wait for a layer report them. */
  readonly owner?: LockOwner | undefined;
  /** Called once if the call only waits, for some seconds, for a layer that another process has locked. */
  readonly onBlocked?: ((wait: LockWait) => void) | undefined;
  /** Called once with the states of all images when they are resolved. The states change until the call ends. */
  readonly onResolved?: ((images: readonly ImageState[]) => void) | undefined;
  readonly log?: Log | undefined;
}
