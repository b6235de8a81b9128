import type { Layer } from '../oci/descriptor.ts';
import type { BlobDigest } from '../oci/digest.ts';
import type { Platform } from '../oci/platform.ts';

/** What is to be unpacked from a source. */
export type ImageTarget =
  /** A manifest or an index. */
  | { readonly kind: 'manifest'; readonly digest: BlobDigest }
  | { readonly kind: 'tag'; readonly tag: string }
  /** Bottom-most first; nothing else is read. */
  | { readonly kind: 'layers'; readonly layers: readonly Layer[] };

export interface ImageRequest {
  readonly target: ImageTarget;
  /** For an index: which of its images. Default: the host's platform. */
  readonly platforms?: readonly Platform[] | 'all';
}

/** One image for one platform, verified: what to apply and what it is called. */
export interface ResolvedImage {
  /** Absent for explicit layers. */
  readonly platform?: Platform;
  readonly manifestDigest?: BlobDigest;
  readonly configDigest?: BlobDigest;
  /** Bottom-most first. */
  readonly layers: readonly Layer[];
  /** What its documents say otherwise than they should, and what they were taken for: one sentence each. */
  readonly warnings: readonly string[];
}
