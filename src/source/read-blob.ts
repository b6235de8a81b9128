import { UnpackError } from '../errors.ts';
import { LruCache } from '../lru-cache.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import type { BlobSource } from './blob-source.ts';
import { type FetchOptions, fetchBlob } from './fetch.ts';

/** Maximum size of a DocumentCache in bytes: enough for thousands of manifests and configs. */
const CACHE_BYTES = 32 * 1024 * 1024;

/**
 * Caches verified manifests and configs by source and digest. The content of a digest never changes, so a job whose image is in
 * the store only needs to read its tag.
 */
export class DocumentCache {
  private readonly documents = new LruCache<Buffer>(CACHE_BYTES, ({ length }) => length);

  get(source: string, digest: BlobDigest): Buffer | undefined {
    return this.documents.get(`${digest} ${source}`);
  }

  /** @param document verified by the caller @returns the copy that the cache has, so that the caller keeps no second one */
  add(source: string, digest: BlobDigest, document: Buffer): Buffer {
    // a copy, because the document can be a small part of a large buffer
    const copy = Buffer.from(document);
    this.documents.add(`${digest} ${source}`, copy);
    return copy;
  }
}

/**
 * Reads a small blob, a manifest or a config, into memory and verifies it.
 * @param blob only the digest if the size is unknown
 * @param options.limit maximum size in bytes
 * @throws UnpackError LIMIT_EXCEEDED if it is longer than `limit`; and as `fetchBlob`
 */
export async function readBlob(
  source: BlobSource,
  blob: BlobDigest | Pick<Descriptor, 'digest' | 'size'>,
  options: FetchOptions & { readonly limit: number; readonly cache?: DocumentCache | undefined },
): Promise<Buffer> {
  const { digest, size } = typeof blob === 'string' ? { digest: blob, size: undefined } : blob;
  const { cache, limit } = options;
  const tooLong = (bytes: number) =>
    new UnpackError(
      'LIMIT_EXCEEDED',
      `blob ${shortDigest(digest)} of ${source.name} has ${bytes} bytes or more; the limit for a document of its kind is ${limit}`,
      { details: { digest } },
    );
  if (size !== undefined && size > limit) throw tooLong(size);
  const known = cache?.get(source.name, digest);
  // the download refuses a descriptor with a wrong size
  if (known !== undefined && known.length === (size ?? known.length)) return known;
  const checkSize = (bytes: number | undefined) => {
    if (bytes !== undefined && bytes > limit) throw tooLong(bytes);
  };
  const document = await collect(fetchBlob(source, { digest, size }, { ...options, checkSize }), limit, tooLong);
  return cache?.add(source.name, digest, document) ?? document;
}

/**
 * Collects a body in memory. The chunks are copied, because each is valid only until the next one is requested.
 * @param tooLong the error for more than `limit` bytes
 */
export async function collect(
  chunks: AsyncIterable<Uint8Array>,
  limit: number,
  tooLong: (bytes: number) => UnpackError,
): Promise<Buffer> {
  const copies: Buffer[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    length += chunk.length;
    if (length > limit) throw tooLong(length);
    copies.push(Buffer.from(chunk));
  }
  return copies.length === 1 && copies[0] !== undefined ? copies[0] : Buffer.concat(copies);
}
