import type { BlobDigest } from '../oci/digest.ts';

/** Bytes of documents that are kept: thousands of manifests and configs. */
const MOST_BYTES = 32 * 1024 * 1024;

/**
 * Manifests and configs that were verified once, by source and digest, so that a job whose image is there already needs
 * no more than a look at its tag. What a digest names never changes.
 */
export class DocumentCache {
  /** In the order of their last use. */
  private readonly documents = new Map<string, Buffer>();
  private bytes = 0;

  get(source: string, digest: BlobDigest): Buffer | undefined {
    const key = `${digest} ${source}`;
    const document = this.documents.get(key);
    if (document === undefined) return undefined;
    this.documents.delete(key);
    this.documents.set(key, document);
    return document;
  }

  /** Keeps bytes that have been verified against `digest`. */
  set(source: string, digest: BlobDigest, document: Buffer): void {
    const key = `${digest} ${source}`;
    if (this.documents.has(key)) return;
    // a copy: the document may be a small part of what the network gave
    this.documents.set(key, Buffer.from(document));
    this.bytes += document.length;
    for (const [oldest, { length }] of this.documents) {
      if (this.bytes <= MOST_BYTES) break;
      this.documents.delete(oldest);
      this.bytes -= length;
    }
  }
}
