import type { BlobDigest } from '../oci/digest.ts';
import type { OciLayoutSpec } from './oci-layout.ts';
import type { S3SourceSpec } from './s3.ts';

/**
 * A place that holds an image's bytes under their digests: a bucket in one of several layouts, or a folder. It hands
 * out bytes and believes nothing: size and digest are checked by `fetchBlob` and `readBlob`, which callers use.
 */
export interface BlobSource {
  /** For messages: `s3://bucket/prefix` or a path. */
  readonly name: string;

  /**
   * Bytes of a blob from `offset` on. Pass the `etag` of an earlier answer to be refused rather than be given the rest
   * of another object.
   * @throws UnpackError BLOB_NOT_FOUND, SOURCE_DENIED, SOURCE_UNAVAILABLE, TIMED_OUT, CANCELLED
   */
  open(digest: BlobDigest, options: OpenOptions): Promise<BlobStream>;

  /**
   * The digest that a tag names, and what is known about it without reading it.
   * @throws UnpackError IMAGE_NOT_FOUND, and as open
   */
  resolveTag(tag: string, signal?: AbortSignal): Promise<TagTarget>;

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
  /** Where the bytes begin: the offset asked for, or 0 from a source that ignored it. */
  readonly offset: number;
  readonly chunks: AsyncIterable<Buffer>;
}

export interface TagTarget {
  readonly digest: BlobDigest;
  readonly mediaType?: string;
  readonly size?: number;
}

/** Everything needed to open a source again, on another thread too (it survives structured clone). */
export type SourceSpec = S3SourceSpec | OciLayoutSpec;
