import { createHash } from 'node:crypto';
import {
  AbortMultipartUploadCommand,
  type CompletedPart,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
  type S3Client,
  S3ServiceException,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { algorithmOf, shortDigest } from '../oci/digest.ts';
import { collect } from '../source/read-blob.ts';
import { s3Client } from '../source/s3-client.ts';
import { s3Error } from '../source/s3-errors.ts';
import type { S3Connection } from '../source/source-spec.ts';
import type { LocalBlob } from './local-blob.ts';

/** Size of a part in bytes. S3 requires at least 5 MiB, and at most 10,000 parts. */
const PART = 16 * 1024 * 1024;
const MAX_PARTS = 10_000;
/** Maximum number of parts that are sent at the same time. Together with PART this limits the memory. */
const PARALLEL_PARTS = 4;
/** Time limit in milliseconds for removing the parts of a failed upload. */
const CLEANUP_TIMEOUT = 2000;

export interface Uploader {
  /** Whether an object with this size exists. */
  has(key: string, size: number): Promise<boolean>;
  /**
   * Stores a blob. It becomes visible only when it is complete and has the digest of its descriptor.
   * @throws UnpackError BLOB_DIGEST_MISMATCH
   */
  putBlob(key: string, descriptor: Descriptor, blob: LocalBlob): Promise<void>;
  putFile(key: string, bytes: Buffer, contentType: string, condition?: PutCondition): Promise<void>;
  /** A small file with its ETag. `undefined` if there is none. */
  getFile(key: string, limit: number): Promise<{ bytes: Buffer; etag: string | undefined } | undefined>;
  close(): void;
}

/**
 * A condition for storing an object: it still has this ETag; or, if the ETag is `undefined`, it still does not exist.
 */
export interface PutCondition {
  readonly etag: string | undefined;
}

/**
 * Writes objects to a bucket, for push. The caller closes it.
 * @throws UnpackError (its methods) the same failures as a source; BLOB_DIGEST_MISMATCH if a condition is not met
 */
export function openUploader(
  connection: S3Connection,
  bucket: string,
  options: { readonly signal?: AbortSignal | undefined; readonly onBytes?: ((count: number) => void) | undefined },
): Uploader {
  // the SDK can repeat uploads, because parts are in memory
  const client = s3Client(connection, {
    maxAttempts: connection.maxResumes + 1,
    socketTimeout: connection.idleTimeout,
  });
  const { signal, onBytes } = options;
  const sending = signal === undefined ? {} : { abortSignal: signal };
  const to: Target = { client, bucket, sending, onBytes };

  /** Sends one request. @throws UnpackError */
  const request = async <T>(key: string, action: () => Promise<T>): Promise<T> => {
    throwIfAborted(signal);
    try {
      return await action();
    } catch (thrown) {
      if (thrown instanceof UnpackError) throw thrown;
      if (signal?.aborted) throw abortError(signal);
      throw s3Error(thrown, {
        bucket,
        key,
        endpoint: connection.endpoint,
        settings: connection.settings,
        missing: 'BLOB_NOT_FOUND',
      });
    }
  };
  const ifThere = async <T>(promise: Promise<T>): Promise<T | undefined> => {
    try {
      return await promise;
    } catch (error) {
      if (error instanceof UnpackError && error.code === 'BLOB_NOT_FOUND') return undefined;
      throw error;
    }
  };

  return {
    async has(key, size) {
      const object = { Bucket: bucket, Key: key };
      const head = async () => {
        const ask = () => client.send(new HeadObjectCommand(object), sending);
        try {
          return await ask();
        } catch (error) {
          if (!isWithoutReason(error)) throw error;
          // it can succeed with new credentials
          const { Body } = await client.send(new GetObjectCommand({ ...object, Range: 'bytes=0-0' }), sending);
          await Body?.transformToByteArray();
          return await ask();
        }
      };
      return (await ifThere(request(key, head)))?.ContentLength === size;
    },
    putBlob: (key, descriptor, blob) =>
      request(key, () => (blob.size <= PART ? putWhole : putParts)(to, key, descriptor, blob)),
    async putFile(key, bytes, contentType, condition) {
      const object = { Bucket: bucket, Key: key, Body: bytes, ContentType: contentType };
      const put = (when: object) => client.send(new PutObjectCommand({ ...object, ...when }), sending);
      await request(key, async () => {
        if (condition === undefined) return put({});
        try {
          return await put(condition.etag === undefined ? { IfNoneMatch: '*' } : { IfMatch: condition.etag });
        } catch (error) {
          // old servers have no conditional writes, so the last writer wins
          if (error instanceof Error && error.name === 'NotImplemented') return put({});
          throw error;
        }
      });
    },
    async getFile(key, limit) {
      const command = new GetObjectCommand({ Bucket: bucket, Key: key });
      const found = await ifThere(request(key, () => client.send(command, sending)));
      if (found === undefined) return undefined;
      const tooLong = () => new UnpackError('LIMIT_EXCEEDED', `${key} is longer than ${limit} bytes, the limit`);
      // `as`: in Node the SDK's body is a stream of buffers
      const body = (found.Body ?? []) as AsyncIterable<Uint8Array>;
      return { bytes: await request(key, () => collect(body, limit, tooLong)), etag: found.ETag };
    },
    close: () => client.destroy(),
  };
}

/** Whether a HEAD was refused. Its answer has no document with the reason, so the same is asked with GET. */
function isWithoutReason(error: unknown): boolean {
  const status = error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined;
  return status !== undefined && status >= 400 && status < 500 && status !== 404;
}

interface Target {
  readonly client: S3Client;
  readonly bucket: string;
  readonly sending: { readonly abortSignal?: AbortSignal };
  readonly onBytes: ((count: number) => void) | undefined;
}

async function putWhole(to: Target, key: string, descriptor: Descriptor, blob: LocalBlob): Promise<void> {
  const { client, bucket, sending, onBytes } = to;
  const bytes = await blob.read(0, blob.size);
  verify(descriptor, createHash(algorithmOf(descriptor.digest)).update(bytes).digest('hex'), blob.size);
  const object = { Bucket: bucket, Key: key, Body: bytes, ContentType: contentType(descriptor) };
  await client.send(new PutObjectCommand(object), sending);
  onBytes?.(bytes.length);
}

async function putParts(to: Target, key: string, descriptor: Descriptor, blob: LocalBlob): Promise<void> {
  const { client, bucket, sending, onBytes } = to;
  const object = { Bucket: bucket, Key: key };
  const create = new CreateMultipartUploadCommand({ ...object, ContentType: contentType(descriptor) });
  const { UploadId } = await client.send(create, sending);
  const length = Math.max(PART, Math.ceil(blob.size / MAX_PARTS));
  const hash = createHash(algorithmOf(descriptor.digest));
  const parts: CompletedPart[] = [];
  let next = 0;
  let reading: Promise<unknown> = Promise.resolve();
  let failed = false;

  // parts are read and hashed one after another, but several are sent at the same time
  const readPart = (offset: number): Promise<Buffer> => {
    const read = reading.then(async () => {
      throwIfAborted(sending.abortSignal);
      const bytes = await blob.read(offset, Math.min(length, blob.size - offset));
      hash.update(bytes);
      return bytes;
    });
    reading = read.catch(() => undefined);
    return read;
  };
  const send = async () => {
    while (next * length < blob.size && !failed) {
      const index = next;
      next += 1;
      const bytes = await readPart(index * length);
      const part = { ...object, UploadId, PartNumber: index + 1, Body: bytes };
      const { ETag } = await client.send(new UploadPartCommand(part), sending);
      parts[index] = { PartNumber: index + 1, ...(ETag === undefined ? {} : { ETag }) };
      onBytes?.(bytes.length);
    }
  };
  try {
    const sent = await Promise.allSettled(
      Array.from({ length: PARALLEL_PARTS }, () =>
        send().catch((error: unknown) => {
          failed = true;
          throw error;
        }),
      ),
    );
    const broken = sent.find((result) => result.status === 'rejected');
    if (broken !== undefined) throw broken.reason;
    verify(descriptor, hash.digest('hex'), blob.size);
    await client.send(
      new CompleteMultipartUploadCommand({ ...object, UploadId, MultipartUpload: { Parts: parts } }),
      sending,
    );
  } catch (error) {
    // incomplete uploads cost money; if removing the parts fails too, the first error matters more
    const briefly = { abortSignal: AbortSignal.timeout(CLEANUP_TIMEOUT) };
    await client.send(new AbortMultipartUploadCommand({ ...object, UploadId }), briefly).catch(() => undefined);
    throw error;
  }
}

function contentType({ mediaType }: Descriptor): string {
  return mediaType || 'application/octet-stream';
}

function verify(descriptor: Descriptor, hex: string, size: number): void {
  const actual = `${algorithmOf(descriptor.digest)}:${hex}`;
  if (actual === descriptor.digest && size === descriptor.size) return;
  throw new UnpackError(
    'BLOB_DIGEST_MISMATCH',
    `the blob ${shortDigest(descriptor.digest)} (${descriptor.size} bytes) has ${size} bytes and the digest ${actual}; it was not stored`,
    { details: { digest: descriptor.digest, expected: descriptor.digest, actual } },
  );
}
