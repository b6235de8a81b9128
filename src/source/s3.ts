import { Readable } from 'node:stream';
import type { GetObjectCommand, GetObjectCommandOutput } from '@aws-sdk/client-s3';
import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type BlobDigest, isDigest } from '../oci/digest.ts';
import { findTag, type ImageIndex } from '../oci/image-index.ts';
import { DOCUMENT_LIMIT, parseIndex } from '../oci/manifest.ts';
import type { BlobSource, BlobStream, OpenOptions, TagTarget } from './blob-source.ts';
import { type BucketKeys, bucketKeys, checkedBucket } from './bucket-layout.ts';
import { responseBody } from './response-body.ts';
import { S3Clients, sdk } from './s3-clients.ts';
import { type S3Request, s3Error, s3Location } from './s3-errors.ts';
import { watchSilence } from './silence.ts';
import { type Asking, SIGNED_FOR, SmallObjects } from './small-objects.ts';
import type { HttpRequestSpec, LentSpec, S3Connection, S3SourceSpec } from './source-spec.ts';

export type { BucketLayout, S3Connection, S3SourceSpec } from './source-spec.ts';

/** Seconds; longer than any layer takes. Credentials that end before end the permission too. */
const LENT_FOR = 12 * 3600;

/** Bytes of an index that is kept: with hundreds of open sources they must stay small. */
const INDEX_KEPT = 16 * 1024;

/** A registry's link file holds a digest; the longest is 135 bytes. */
const LINK_LIMIT = 1024;

/**
 * The images in a bucket. Connections are kept for the next request until `close`, or as long as `shared` is open.
 * @param shared clients that other sources use too; default: its own
 * @throws UnpackError INVALID_JOB when bucket, prefix or layout can't be
 */
export function openS3Source(spec: S3SourceSpec, shared?: S3Clients): BlobSource {
  const clients = shared ?? new S3Clients();
  const bucket = checkedBucket(spec.bucket);
  const keys = bucketKeys(spec.layout, spec.prefix);
  const reader = new ObjectReader(spec.connection, bucket, clients);
  const { maxResumes } = spec.connection;
  const asking: Asking = {
    sign: (key) => reader.sign(key, 'IMAGE_NOT_FOUND', SIGNED_FOR),
    open: (key, signal) => reader.open(key, 'IMAGE_NOT_FOUND', { signal }),
    maxResumes,
  };
  const tags = new Tags(keys, new SmallObjects(asking));
  return {
    name: `s3://${bucket}${keys.prefix === '' ? '' : `/${keys.prefix.slice(0, -1)}`}`,
    maxResumes,
    open: async (digest, options) => reader.open(keys.blob(digest), 'BLOB_NOT_FOUND', options, digest),
    lend: (blob) => reader.lend(keys.blob(blob.digest), blob, `s3://${bucket}`),
    resolveTag: (tag, signal) => tags.resolve(tag, signal),
    close: () => (shared === undefined ? clients.close() : undefined),
  };
}

class ObjectReader {
  readonly #connection: S3Connection;
  readonly #bucket: string;
  readonly #clients: S3Clients;

  constructor(connection: S3Connection, bucket: string, clients: S3Clients) {
    this.#connection = connection;
    this.#bucket = bucket;
    this.#clients = clients;
  }

  async open(
    key: string,
    missing: S3Request['missing'],
    { offset = 0, etag, signal }: OpenOptions,
    digest?: BlobDigest,
  ): Promise<BlobStream> {
    const { idleTimeout } = this.#connection;
    const request = this.#request(key, missing, digest);
    const { getObject } = await sdk();
    const command = getObject(this.#bucket, key, offset, etag);
    const response = await this.#send(command, request, signal);
    const body: unknown = response.Body;
    if (!(body instanceof Readable)) throw new TypeError('the S3 client gave no Node stream');
    return {
      ...extent(response),
      etag: response.ETag,
      chunks: responseBody(body, { what: s3Location(request), idleTimeout, signal }),
    };
  }

  async lend(key: string, { digest, size }: Pick<Descriptor, 'digest' | 'size'>, name: string): Promise<LentSpec> {
    const { maxResumes } = this.#connection;
    return { kind: 'http-blob', name, size, maxResumes, ...(await this.sign(key, 'BLOB_NOT_FOUND', LENT_FOR, digest)) };
  }

  /** A URL signed for one object, for some seconds. It needs no request: what it names may not exist. */
  async sign(
    key: string,
    missing: S3Request['missing'],
    seconds: number,
    digest?: BlobDigest,
  ): Promise<HttpRequestSpec> {
    const { connectTimeout, idleTimeout } = this.#connection;
    const request = this.#request(key, missing, digest);
    try {
      const { signedUrl } = await sdk();
      const url = await signedUrl(await this.#clients.get(this.#connection), this.#bucket, key, seconds);
      return { url, request, connectTimeout, idleTimeout };
    } catch (thrown) {
      throw s3Error(thrown, request);
    }
  }

  #request(key: string, missing: S3Request['missing'], digest: BlobDigest | undefined): S3Request {
    const { endpoint } = this.#connection;
    return { bucket: this.#bucket, key, endpoint, missing, ...(digest === undefined ? {} : { digest }) };
  }

  /** Sends, and stops at once on abort or silence: the SDK alone would first finish looking for credentials. */
  async #send(
    command: GetObjectCommand,
    request: S3Request,
    signal: AbortSignal | undefined,
  ): Promise<GetObjectCommandOutput> {
    throwIfAborted(signal);
    const stop = new AbortController();
    const stopped = Promise.withResolvers<never>();
    const end = (error: UnpackError) => {
      stopped.reject(error);
      stop.abort();
    };
    const { idleTimeout } = this.#connection;
    const silence = watchSilence(idleTimeout, () => {
      const sentence = `${s3Location(request)}: no answer came for ${idleTimeout / 1000} s`;
      end(new UnpackError('SOURCE_UNAVAILABLE', sentence, { details: detailsOf(request) }));
    });
    const onAbort = () => {
      if (signal !== undefined) end(abortError(signal));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    silence.arm();
    const sending = this.#clients
      .get(this.#connection)
      .then((client) => client.send(command, { abortSignal: stop.signal }));
    try {
      return await Promise.race([sending, stopped.promise]);
    } catch (thrown) {
      if (thrown instanceof UnpackError) {
        // an answer that still comes is not wanted; its connection must not stay
        sending.then(({ Body: body }) => body instanceof Readable && body.destroy()).catch(() => undefined);
        throw thrown;
      }
      throw s3Error(thrown, request);
    } finally {
      silence.disarm();
      signal?.removeEventListener('abort', onAbort);
    }
  }
}

/** What names the images of a bucket: an index, or a link file for each tag. */
class Tags {
  readonly #keys: BucketKeys;
  readonly #objects: SmallObjects;
  /** The index as it was last read, and what it says: checking it takes longer than reading it. */
  #index: { readonly bytes: Buffer; readonly parsed: ImageIndex } | undefined;

  constructor(keys: BucketKeys, objects: SmallObjects) {
    this.#keys = keys;
    this.#objects = objects;
  }

  async resolve(tag: string, signal: AbortSignal | undefined): Promise<TagTarget> {
    const { layout } = this.#keys;
    if (layout.kind === 'oci') {
      const key = this.#keys.file('index.json');
      return findTag(this.#parsed(await this.#objects.read(key, DOCUMENT_LIMIT, signal), key), tag, key);
    }
    if (layout.kind === 'distribution') {
      const key = this.#keys.tagLink(tag);
      const text = (await this.#objects.read(key, LINK_LIMIT, signal)).toString('latin1').trim();
      if (isDigest(text)) return { digest: text as BlobDigest }; // a registry's link names a stored manifest
      throw new UnpackError('MANIFEST_INVALID', `${key} should hold a digest and holds ${JSON.stringify(text)}`);
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

/** Size of the whole object and where the bytes begin: a server that ignores Range answers 200 with all of it. */
function extent(response: GetObjectCommandOutput): Pick<BlobStream, 'offset' | 'size'> {
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.ContentRange ?? '');
  if (range === null) return { offset: 0, size: response.ContentLength };
  return { offset: Number(range[1]), size: range[2] === '*' ? undefined : Number(range[2]) };
}

const detailsOf = ({ digest }: S3Request) => (digest === undefined ? {} : { digest });
