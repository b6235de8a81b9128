import { LruCache } from '../lru-cache.ts';
import type { BlobDigest } from '../oci/digest.ts';

/** Bytes of documents that are kept: thousands of manifests and configs. */
const MOST_BYTES = 32 * 1024 * 1024;

/**
 * Manifests and configs that were verified once, by source and digest, so that a job whose image is there already needs
 * no more than a look at its tag. What a digest names never changes.
 */
export class DocumentCache {
  private readonly documents = new LruCache<Buffer>(MOST_BYTES, ({ length }) => length);

  get(source: string, digest: BlobDigest): Buffer | undefined {
    return this.documents.get(`${digest} ${source}`);
  }

  /** Keeps bytes that have been verified against `digest`. */
  set(source: string, digest: BlobDigest, document: Buffer): void {
    // a copy: the document may be a small part of what the network gave
    this.documents.add(`${digest} ${source}`, Buffer.from(document));
  }
}
