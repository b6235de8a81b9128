import type { ChainLayer, Layer } from '../oci/descriptor.ts';
import type { BlobDigest } from '../oci/digest.ts';
import type { RuntimeConfig } from '../oci/image-config.ts';
import type { Platform } from '../oci/platform.ts';

/** The request of a job, and the images that it resolves to. */

/** What to unpack from a source. */
export type ImageTarget =
  /** A manifest or an index. */
  | { readonly kind: 'manifest'; readonly digest: BlobDigest }
  | { readonly kind: 'tag'; readonly tag: string }
  /** Explicit layers, bottom-most first; no manifest is read. */
  | { readonly kind: 'layers'; readonly layers: readonly Layer[] };

export interface ImageRequest {
  readonly target: ImageTarget;
  /** The platforms to choose from an index. Default: the platform of the host. */
  readonly platforms?: readonly Platform[] | 'all';
}

/** The image of one platform, from verified documents. */
export interface ResolvedImage {
  /** Absent for explicit layers. */
  readonly platform?: Platform;
  readonly manifestDigest?: BlobDigest;
  readonly configDigest?: BlobDigest;
  /** The index that the image was chosen from: the outer one of several. */
  readonly indexDigest?: BlobDigest;
  /** The bytes of its manifest, its config and all indexes that lead to it. Empty for explicit layers. */
  readonly documents: ReadonlyMap<BlobDigest, Uint8Array>;
  /** Absent for explicit layers. */
  readonly config?: RuntimeConfig;
  /** Bottom-most first. */
  readonly layers: readonly ChainLayer[];
  /**
   * One sentence for each deviation of its documents from the specification: what is wrong, and what it was treated as.
   */
  readonly warnings: readonly string[];
}
