import type { BlobDigest, DiffId } from './digest.ts';
import type { Platform } from './platform.ts';

/** OCI image spec, descriptor.md. `size` is in bytes, of the content as stored. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: BlobDigest;
  readonly size: number;
  readonly urls?: readonly string[];
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: Platform;
  readonly artifactType?: string;
}

/** One layer: the blob that transports it, and the digest of the tar inside. */
export interface Layer {
  readonly diff: { readonly digest: DiffId };
  readonly blob: Descriptor;
}
