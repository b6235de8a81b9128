import { UnpackError } from '../errors.ts';
import { type BlobDigest, isDigest } from '../oci/digest.ts';
import { findTag, type ImageIndex } from '../oci/image-index.ts';
import { DOCUMENT_LIMIT, parseIndex } from '../oci/manifest.ts';
import type { TagTarget } from './blob-source.ts';
import type { BucketKeys } from './bucket-layout.ts';
import type { TagFiles } from './tag-files.ts';

/** Bytes of an index that is kept: with hundreds of open sources they must stay small. */
const INDEX_KEPT = 16 * 1024;

/** A registry's link file holds a digest; the longest is 135 bytes. */
const LINK_LIMIT = 1024;

/** What names the images of a bucket: an index, or a link file for each tag. */
export class Tags {
  readonly #keys: BucketKeys;
  readonly #objects: TagFiles;
  /** The index as it was last read, and what it says: checking it takes longer than reading it. */
  #index: { readonly bytes: Buffer; readonly parsed: ImageIndex } | undefined;

  constructor(keys: BucketKeys, objects: TagFiles) {
    this.#keys = keys;
    this.#objects = objects;
  }

  async resolve(tag: string, signal: AbortSignal | undefined): Promise<TagTarget> {
    const { layout } = this.#keys;
    if (layout.kind === 'oci') {
      const key = this.#keys.file('index.json');
      const index = await this.#objects.read(key, DOCUMENT_LIMIT, (bytes) => this.#parsed(bytes, key), signal);
      return findTag(index, tag, key);
    }
    if (layout.kind === 'distribution') {
      const key = this.#keys.tagLink(tag);
      return this.#objects.read(key, LINK_LIMIT, (bytes) => parseLink(bytes, key), signal);
    }
    throw new UnpackError('INVALID_JOB', 'the layout "keys" has no tags: name the manifest by its digest');
  }

  #parsed(bytes: Buffer, key: string): ImageIndex {
    if (this.#index?.bytes.equals(bytes)) return this.#index.parsed;
    const parsed = parseIndex(bytes, key);
    if (bytes.length <= INDEX_KEPT) this.#index = { bytes, parsed };
    return parsed;
  }
}

/** @throws UnpackError MANIFEST_INVALID */
function parseLink(bytes: Buffer, key: string): TagTarget {
  const text = bytes.toString('latin1').trim();
  if (isDigest(text)) return { digest: text as BlobDigest }; // a registry's link names a stored manifest
  throw new UnpackError('MANIFEST_INVALID', `${key} should hold a digest and holds ${JSON.stringify(text)}`);
}
