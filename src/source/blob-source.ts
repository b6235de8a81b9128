import type { Descriptor } from '../oci/descriptor.ts';
import type { BlobDigest } from '../oci/digest.ts';
import type { IndexEntry } from '../oci/image-index.ts';
import type { BlobGrant, SignatureRefusal } from './source-spec.ts';

/**
 * A place with the blobs of images: a bucket in one of several layouts, or a local folder. Its bytes are not verified; callers use
 * `fetchBlob` and `readBlob`, which verify size and digest.
 */
export interface BlobSource {
  /** For messages: `s3://bucket/prefix` or a path. */
  readonly name: string;

  /** Default of `FetchOptions.maxResumes`. */
  readonly maxResumes: number;

  /**
   * Reads a blob from `offset` on. If `etag` (of an earlier answer) is given, a replaced object is refused. Sends one
   * request; `fetchBlob` retries.
   * @throws UnpackError BLOB_NOT_FOUND; SOURCE_DENIED; SOURCE_UNAVAILABLE, also after the idle timeout; IMAGE_NOT_FOUND
   * if the whole bucket is missing; BLOB_DIGEST_MISMATCH if the object no longer has the `etag`; BLOB_SIZE_MISMATCH if
   * the object is shorter than `offset`; the reason of the signal
   */
  open(digest: BlobDigest, options: OpenOptions): Promise<BlobStream>;

  /**
   * The digest of a tag.
   * @throws UnpackError IMAGE_NOT_FOUND; INVALID_JOB if this source cannot have such a tag; MANIFEST_INVALID if the index or the
   *   link of the tag is malformed; and as `open`
   */
  resolveTag(tag: string, signal?: AbortSignal): Promise<TagTarget>;

  /**
   * Lets another thread read one blob for some hours without credentials (GrantedBlobs). The blob need not exist.
   * @param refused the refusal of the last grant by the server
   * @throws UnpackError SOURCE_DENIED without credentials, or if no other grant can help
   */
  grant(blob: Pick<Descriptor, 'digest' | 'size'>, refused?: SignatureRefusal): Promise<BlobGrant>;

  /** Closes connections. A second call does nothing. */
  close(): void;
}

export interface OpenOptions {
  /** The first byte to read. Default: 0. */
  readonly offset?: number;
  readonly etag?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface BlobStream {
  /** Size of the whole blob in bytes, if the source reports it. */
  readonly size: number | undefined;
  readonly etag: string | undefined;
  readonly contentType?: string | undefined;
  /**
   * The header of an answer whose bytes differ from the stored bytes, because the server or a proxy has changed them.
   */
  readonly altered?: string | undefined;
  /** Offset of the first byte: the requested one, or 0 from a server that ignores ranges. */
  readonly offset: number;
  /**
   * The stream can be read once. If the reader stops early, the connection is closed. A chunk is valid until the next
   * one is requested.
   */
  readonly chunks: AsyncIterable<Buffer>;
}

export interface TagTarget {
  readonly digest: BlobDigest;
  readonly mediaType?: string;
  readonly size?: number;
  /** The content in base64, not verified. */
  readonly data?: string;
  /** Deviations of the index, for the warnings of a result. */
  readonly warnings?: readonly string[];
  /**
   * All images with the tag, if there are several. In this case the image is chosen by platform, and the digest above
   * is not used.
   */
  readonly entries?: readonly IndexEntry[];
}
