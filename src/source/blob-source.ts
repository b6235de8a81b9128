import type { Descriptor } from '../oci/descriptor.ts';
import type { BlobDigest } from '../oci/digest.ts';
import type { IndexEntry } from '../oci/image-index.ts';
import type { BlobGrant, SignatureRefusal } from './source-spec.ts';

export type { SourceSpec } from './source-spec.ts';

/**
 * A place that holds an image's bytes under their digests: a bucket in one of several layouts, or a folder. It hands
 * out bytes and believes nothing: size and digest are checked by `fetchBlob` and `readBlob`, which callers use.
 */
export interface BlobSource {
  /** For messages: `s3://bucket/prefix` or a path. */
  readonly name: string;

  /** How often in a row `fetchBlob` and `readBlob` continue a broken read from here, unless their caller says. */
  readonly maxResumes: number;

  /**
   * Bytes of a blob from `offset` on. Pass the `etag` of an earlier answer to be refused rather than be given the rest
   * of another object. One request, no second try: that is for `fetchBlob`.
   * @throws UnpackError BLOB_NOT_FOUND; SOURCE_DENIED; SOURCE_UNAVAILABLE (silence too); IMAGE_NOT_FOUND when the whole
   *   bucket is missing; BLOB_DIGEST_MISMATCH when the object is no longer the one of `etag`; BLOB_SIZE_MISMATCH when it
   *   ends before `offset`; what the signal's reason says
   */
  open(digest: BlobDigest, options: OpenOptions): Promise<BlobStream>;

  /**
   * The digest that a tag names, and what is known about it without reading it.
   * @throws UnpackError IMAGE_NOT_FOUND; INVALID_JOB when there can be no such tag here; MANIFEST_INVALID when what is
   *   stored for the tag is not to be understood; and as open
   */
  resolveTag(tag: string, signal?: AbortSignal): Promise<TagTarget>;

  /**
   * What another thread needs to read this one blob, without credentials and for some hours. Nothing is looked up yet.
   * @param refused what was lent before was refused so: another permission may help
   * @throws UnpackError SOURCE_DENIED when there are no credentials to lend from, or nothing can help
   */
  grant(blob: Pick<Descriptor, 'digest' | 'size'>, refused?: SignatureRefusal): Promise<BlobGrant>;

  /** Closes connections; a second call does nothing. */
  close(): void;
}

export interface OpenOptions {
  /** Bytes to leave out at the start. */
  readonly offset?: number;
  readonly etag?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface BlobStream {
  /** Bytes of the whole blob as the source says, `undefined` where it does not say. */
  readonly size: number | undefined;
  readonly etag: string | undefined;
  readonly contentType?: string | undefined;
  /** What the source says it has done to the stored bytes: the answer is not what is stored. */
  readonly altered?: string | undefined;
  /** Where the bytes begin: the offset asked for, or 0 from a source that ignored it. */
  readonly offset: number;
  /** To be read once; stopping early closes the connection. A chunk is valid until the next is asked for. */
  readonly chunks: AsyncIterable<Buffer>;
}

export interface TagTarget {
  readonly digest: BlobDigest;
  readonly mediaType?: string;
  readonly size?: number;
  /** The content itself in base64, not believed. */
  readonly data?: string;
  /** What names the tag says otherwise than it should: for the warnings of a result. */
  readonly warnings?: readonly string[];
  /** All images that have the tag, where these are several: the platform decides, and not the digest above. */
  readonly entries?: readonly IndexEntry[];
}
