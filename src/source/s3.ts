import { Readable } from 'node:stream';
import type { GetObjectCommand, GetObjectCommandOutput, S3Client } from '@aws-sdk/client-s3';
import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type BlobDigest, isDigest } from '../oci/digest.ts';
import { DOCUMENT_LIMIT, findTag, parseIndex } from '../oci/manifest.ts';
import type { BlobSource, BlobStream, OpenOptions, TagTarget } from './blob-source.ts';
import { type BucketKeys, bucketKeys, checkedBucket } from './bucket-layout.ts';
import { responseBody } from './response-body.ts';
import { retrying } from './retry.ts';
import { type S3Request, s3Error, s3Location } from './s3-errors.ts';
import { watchSilence } from './silence.ts';
import type { LentSpec, S3Connection, S3SourceSpec } from './source-spec.ts';

export type { BucketLayout, S3Connection, S3SourceSpec } from './source-spec.ts';

/** Seconds; longer than any layer takes. Credentials that end before end the permission too. */
const LENT_FOR = 12 * 3600;

/** A registry's link file holds a digest; the longest is 135 bytes. */
const LINK_LIMIT = 1024;

/**
 * The images in a bucket. Connections are kept for the next request until `close`.
 * @throws UnpackError INVALID_JOB when bucket, prefix or layout can't be
 */
export function openS3Source(spec: S3SourceSpec): BlobSource {
  const bucket = checkedBucket(spec.bucket);
  const keys = bucketKeys(spec.layout, spec.prefix);
  const reader = new ObjectReader(spec.connection, bucket);
  const { maxResumes } = spec.connection;
  return {
    name: `s3://${bucket}${keys.prefix === '' ? '' : `/${keys.prefix.slice(0, -1)}`}`,
    maxResumes,
    open: async (digest, options) => reader.open(keys.blob(digest), 'BLOB_NOT_FOUND', options, digest),
    lend: (blob) => reader.lend(keys.blob(blob.digest), blob, `s3://${bucket}`),
    resolveTag: (tag, signal) => retrying(() => resolveTag(reader, keys, tag, signal), { maxResumes, signal }),
    close: () => reader.close(),
  };
}

const sdk = () => import('./s3-client.ts');

class ObjectReader {
  /** Made for the first request: the SDK takes as long to load as a small image to unpack. */
  #client: Promise<S3Client> | undefined;
  readonly #connection: S3Connection;
  readonly #bucket: string;

  constructor(connection: S3Connection, bucket: string) {
    this.#connection = connection;
    this.#bucket = bucket;
  }

  async open(
    key: string,
    missing: S3Request['missing'],
    { offset = 0, etag, signal }: OpenOptions,
    digest?: BlobDigest,
  ): Promise<BlobStream> {
    const { endpoint, idleTimeout } = this.#connection;
    const request: S3Request = {
      bucket: this.#bucket,
      key,
      endpoint,
      missing,
      ...(digest === undefined ? {} : { digest }),
    };
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

  /** A URL signed for one object. It needs no request: what it names may not exist. */
  async lend(key: string, { digest, size }: Pick<Descriptor, 'digest' | 'size'>, name: string): Promise<LentSpec> {
    const { endpoint, connectTimeout, idleTimeout, maxResumes } = this.#connection;
    const request: S3Request = { bucket: this.#bucket, key, endpoint, missing: 'BLOB_NOT_FOUND', digest };
    try {
      const { signedUrl } = await sdk();
      const url = await signedUrl(await this.#s3(), this.#bucket, key, LENT_FOR);
      return { kind: 'http-blob', name, url, size, request, connectTimeout, idleTimeout, maxResumes };
    } catch (thrown) {
      throw s3Error(thrown, request);
    }
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
    const sending = this.#s3().then((client) => client.send(command, { abortSignal: stop.signal }));
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

  #s3(): Promise<S3Client> {
    this.#client ??= sdk().then(({ s3Client }) => s3Client(this.#connection));
    return this.#client;
  }

  close(): void {
    this.#client?.then((client) => client.destroy()).catch(() => {});
  }
}

async function resolveTag(
  reader: ObjectReader,
  keys: BucketKeys,
  tag: string,
  signal: AbortSignal | undefined,
): Promise<TagTarget> {
  const { layout } = keys;
  const read = async (key: string, limit: number) =>
    readAll(await reader.open(key, 'IMAGE_NOT_FOUND', { signal }), key, limit);
  if (layout.kind === 'oci') {
    const key = keys.file('index.json');
    return findTag(parseIndex(await read(key, DOCUMENT_LIMIT), key), tag, key);
  }
  if (layout.kind === 'distribution') {
    const key = keys.tagLink(tag);
    const text = (await read(key, LINK_LIMIT)).toString('latin1').trim();
    if (isDigest(text)) return { digest: text as BlobDigest }; // a registry's link names a stored manifest
    throw new UnpackError('MANIFEST_INVALID', `${key} should hold a digest and holds ${JSON.stringify(text)}`);
  }
  throw new UnpackError('INVALID_JOB', 'the layout "keys" has no tags: name the manifest by its digest');
}

async function readAll(stream: BlobStream, key: string, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of stream.chunks) {
    length += chunk.length;
    if (length > limit) throw new UnpackError('LIMIT_EXCEEDED', `${key} is longer than the ${limit} bytes it may have`);
    chunks.push(chunk);
  }
  if (stream.size !== undefined && length < stream.size) {
    throw new UnpackError('SOURCE_UNAVAILABLE', `${key} ended after ${length} of ${stream.size} bytes`);
  }
  return Buffer.concat(chunks);
}

/** Size of the whole object and where the bytes begin: a server that ignores Range answers 200 with all of it. */
function extent(response: GetObjectCommandOutput): Pick<BlobStream, 'offset' | 'size'> {
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.ContentRange ?? '');
  if (range === null) return { offset: 0, size: response.ContentLength };
  return { offset: Number(range[1]), size: range[2] === '*' ? undefined : Number(range[2]) };
}

const detailsOf = ({ digest }: S3Request) => (digest === undefined ? {} : { digest });
