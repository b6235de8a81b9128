import type { ChainLayer, Layer } from '../oci/descriptor.ts';
import type { BlobDigest } from '../oci/digest.ts';
import type { Platform } from '../oci/platform.ts';

/** What a job asks for, and the images that this resolves to. */

/** What to unpack from a source. */
export type ImageTarget =
  /** A manifest or an index. */
  | { readonly kind: 'manifest'; readonly digest: BlobDigest }
  | { readonly kind: 'tag'; readonly tag: string }
  /** Explicit layers, bottom-most first; no manifest is read. */
  | { readonly kind: 'layers'; readonly layers: readonly Layer[] };

export interface ImageRequest {
  readonly target: ImageTarget;
  /** Which images of an index. Default: the one for the host's platform. */
  readonly platforms?: readonly Platform[] | 'all';
}

/** The image of one platform, from verified documents. */
export interface ResolvedImage {
  /** Absent for explicit layers. */
  readonly platform?: Platform;
  readonly manifestDigest?: BlobDigest;
  readonly configDigest?: BlobDigest;
  /** Bottom-most first. */
  readonly layers: readonly ChainLayer[];
  /** Deviations of its documents from the specification, and how each was read, one sentence each. */
  readonly warnings: readonly string[];
}
