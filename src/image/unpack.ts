import type { SourceSpec } from '../source/blob-source.ts';
import type { ImageState } from './progress.ts';
import type { ImageRequest } from './request.ts';

/** Unpacks images from sources into one snapshot store. Any number of calls may run at once. */
export interface Unpacker {
  /**
   * Resolves the image, applies what is missing and commits it.
   * @throws UnpackError; layers that were committed by then stay
   */
  unpack(source: SourceSpec, request: ImageRequest, options?: UnpackOptions): Promise<UnpackedImage[]>;
  /** Ends the apply threads. Abort running calls first. */
  close(): Promise<void>;
}

/** What one platform of a request became: the final states, with every layer applied or found. */
export interface UnpackedImage extends ImageState {
  /** What was left out and why, in sentences. */
  readonly warnings: readonly string[];
}

export interface UnpackOptions {
  /** Kept on every snapshot that this call commits. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** Called once with the live states of all images, as soon as they are known; they change until the call ends. */
  readonly onResolved?: ((images: readonly ImageState[]) => void) | undefined;
  /** A sentence for the operator: a layer done, a warning. */
  readonly log?:
    | ((level: 'info' | 'warn', sentence: string, fields?: Readonly<Record<string, unknown>>) => void)
    | undefined;
}
