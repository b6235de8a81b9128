import type { ChainId } from '../oci/digest.ts';
import type { LockOwner, LockWait } from '../rootfs/lock-waits.ts';
import type { Log } from '../rootfs/log.ts';
import type { SourceSpec } from '../source/blob-source.ts';
import type { ImageState } from './progress.ts';
import type { ImageRequest, ResolvedImage } from './request.ts';

/** Unpacks images from sources into one snapshot store. Any number of calls may run at once. */
export interface Unpacker {
  /**
   * What unpacking would come to, if it is known what the request means without asking the source, and the store has all
   * layers now; else `undefined`, and nothing is known about why. What it returns is shared, not to be changed.
   */
  recall(source: SourceSpec, request: ImageRequest): Promise<readonly UnpackedImage[] | undefined>;
  /**
   * Resolves the image and looks whether the store has it. Nothing is changed, and nothing is read that is known already:
   * for an image that is there, only what a tag names now.
   * @throws UnpackError as `unpack`
   */
  look(source: SourceSpec, request: ImageRequest, signal?: AbortSignal): Promise<Lookup>;
  /**
   * Resolves the image, applies what is missing and commits it.
   * @throws UnpackError; layers that were committed by then stay
   */
  unpack(source: SourceSpec, request: ImageRequest, options?: UnpackOptions): Promise<UnpackedImage[]>;
  /** Ends the apply threads. Abort running calls first. */
  close(): Promise<void>;
}

/** The store that is unpacked into, for who decides which work it gets. */
export interface StoreKeeper {
  /** Removes what failed layers have left; what can't be removed is told and is no failure. */
  tidy(log?: Log): Promise<void>;
  /** Tries whether a layer can be written now. @throws UnpackError STORE_FULL, STORE_FAILED */
  check(log?: Log): Promise<void>;
  /** Whether another process has locked this layer now, and which. */
  heldElsewhere(chainId: ChainId): LockWait | undefined;
}

/** What a look at the source and at the store has found. */
export interface Lookup {
  readonly images: readonly ResolvedImage[];
  /** When it began, by `performance.now()`. */
  readonly began: number;
  /** What unpacking would come to, if the store has all layers of all images; shared, not to be changed. */
  readonly there: readonly UnpackedImage[] | undefined;
}

/** What one platform of a request became: the final states, with every layer applied or found. */
export interface UnpackedImage extends ImageState {
  /** What was left out and why, and what the documents say otherwise than they should, in sentences. */
  readonly warnings: readonly string[];
}

export interface UnpackOptions {
  /** What was found by a look at this very request a moment ago; default: looks itself. */
  readonly found?: Lookup | undefined;
  /** Kept on every snapshot that this call commits. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** For whom it is done: told to other processes that wait for its layers. */
  readonly owner?: LockOwner | undefined;
  /** Called once when the call has done nothing for some seconds but wait for a layer that another process has locked. */
  readonly onBlocked?: ((wait: LockWait) => void) | undefined;
  /** Called once with the live states of all images, as soon as they are known; they change until the call ends. */
  readonly onResolved?: ((images: readonly ImageState[]) => void) | undefined;
  /** A sentence for the operator: a layer done, a warning. */
  readonly log?:
    | ((level: 'info' | 'warn', sentence: string, fields?: Readonly<Record<string, unknown>>) => void)
    | undefined;
}
