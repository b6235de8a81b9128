import { UnpackError } from '../errors.ts';
import { type BlobDigest, isDigest } from '../oci/digest.ts';
import { findTag, type ImageIndex } from '../oci/image-index.ts';
import { DOCUMENT_LIMIT, parseIndex } from '../oci/manifest.ts';
import type { TagTarget } from './blob-source.ts';
import type { BucketKeys } from './bucket-layout.ts';
import type { TagFiles } from './tag-files.ts';

/** Maximum size in bytes of an index that is kept. Hundreds of sources can be open, so each must stay small. */
const INDEX_KEPT = 16 * 1024;

/**
 * Maximum size of a registry's link file in bytes. Such a file contains a digest, and the longest digest has 135 bytes.
 */
const LINK_LIMIT = 1024;

/** Resolves the tags of a bucket, from the `index.json` of a layout or from the link files of a registry. */
export class Tags {
  readonly #keys: BucketKeys;
  readonly #files: TagFiles;
  /** The last index. Comparing its bytes takes less time than parsing it again. */
  #index: { readonly bytes: Buffer; readonly parsed: ImageIndex } | undefined;

  constructor(keys: BucketKeys, files: TagFiles) {
    this.#keys = keys;
    this.#files = files;
  }

  /** @throws UnpackError as `BlobSource.resolveTag` */
  async resolve(tag: string, signal: AbortSignal | undefined): Promise<TagTarget> {
    const { layout } = this.#keys;
    if (layout.kind === 'oci') {
      const key = this.#keys.file('index.json');
      const index = await this.#files.read(key, DOCUMENT_LIMIT, (bytes) => this.#parseIndex(bytes, key), signal);
      return findTag(index, tag, key);
    }
    if (layout.kind === 'distribution') {
      const key = this.#keys.tagLink(tag);
      return this.#files.read(key, LINK_LIMIT, (bytes) => parseLink(bytes, key), signal);
    }
    throw new UnpackError('INVALID_JOB', 'the layout "keys" has no tags: give the digest of the manifest');
  }

  #parseIndex(bytes: Buffer, key: string): ImageIndex {
    if (this.#index?.bytes.equals(bytes)) return this.#index.parsed;
    const parsed = parseIndex(bytes, key);
    if (bytes.length <= INDEX_KEPT) this.#index = { bytes, parsed };
    return parsed;
  }
}

/** @throws UnpackError MANIFEST_INVALID */
function parseLink(bytes: Buffer, key: string): TagTarget {
  const text = bytes.toString('latin1').trim();
  if (isDigest(text)) return { digest: text as BlobDigest }; // the link of a registry refers to a stored manifest
  throw new UnpackError('MANIFEST_INVALID', `${key} should contain a digest, but contains ${JSON.stringify(text)}`);
}
