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
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { algorithmOf, shortDigest } from '../oci/digest.ts';
import { s3Client } from '../source/s3-client.ts';
import { s3Error } from '../source/s3-errors.ts';
import type { S3Connection } from '../source/source-spec.ts';
import type { StoredBlob } from './stored-blob.ts';

/** Bytes of a part; S3 wants 5 MiB or more, and 10,000 parts or fewer. */
const PART = 16 * 1024 * 1024;
const MOST_PARTS = 10_000;
/** Parts of a blob under way at once; with PART the bound on memory. */
const AT_ONCE = 4;
/** Milliseconds that removing the parts of a failed upload may take. */
const LONGEST_CLEANUP = 2000;

export interface Uploader {
  /** Whether an object of that size is there. */
  has(key: string, size: number): Promise<boolean>;
  /**
   * Stores a blob. It becomes visible only as a whole and only with the digest that it should have.
   * @throws UnpackError BLOB_DIGEST_MISMATCH
   */
  putBlob(key: string, descriptor: Descriptor, blob: StoredBlob): Promise<void>;
  putFile(key: string, bytes: Buffer, contentType: string, condition?: PutCondition): Promise<void>;
  /** A small file and its version; `undefined` where there is none. */
  getFile(key: string, limit: number): Promise<{ bytes: Buffer; etag: string | undefined } | undefined>;
  close(): void;
}

/** Store only if the object is still this one (`etag`), or still missing (`undefined`). */
export interface PutCondition {
  readonly etag: string | undefined;
}

/** Writes to a bucket. Failures read as those of a source; a condition that does not hold is BLOB_DIGEST_MISMATCH. */
export function openUploader(
  connection: S3Connection,
  bucket: string,
  options: { readonly signal?: AbortSignal | undefined; readonly onBytes?: ((count: number) => void) | undefined },
): Uploader {
  // parts are in memory and can be sent again as they are, so here the SDK's own tries are right
  const client = s3Client(connection, {
    maxAttempts: connection.maxResumes + 1,
    socketTimeout: connection.idleTimeout,
  });
  const { signal, onBytes } = options;
  const to: Target = { client, bucket, sending: signal === undefined ? {} : { abortSignal: signal } };

  /** Runs one request, and says what went wrong in our own words. */
  const ask = async <T>(key: string, action: () => Promise<T>): Promise<T> => {
    throwIfAborted(signal);
    try {
      return await action();
    } catch (thrown) {
      if (thrown instanceof UnpackError) throw thrown;
      if (signal?.aborted) throw abortError(signal);
      throw s3Error(thrown, { bucket, key, endpoint: connection.endpoint, missing: 'BLOB_NOT_FOUND' });
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
      const command = new HeadObjectCommand({ Bucket: bucket, Key: key });
      const found = await ifThere(ask(key, () => client.send(command, to.sending)));
      return found?.ContentLength === size;
    },
    putBlob: (key, descriptor, blob) =>
      ask(key, () =>
        blob.size <= PART
          ? putWhole(to, key, descriptor, blob, onBytes)
          : putParts(to, key, descriptor, blob, onBytes, signal),
      ),
    async putFile(key, bytes, contentType, condition) {
      const object = { Bucket: bucket, Key: key, Body: bytes, ContentType: contentType };
      const put = (when: object) => client.send(new PutObjectCommand({ ...object, ...when }), to.sending);
      await ask(key, async () => {
        if (condition === undefined) return put({});
        try {
          return await put(condition.etag === undefined ? { IfNoneMatch: '*' } : { IfMatch: condition.etag });
        } catch (error) {
          // a server from before conditional writes: the last writer wins, as everywhere until 2024
          if (error instanceof Error && error.name === 'NotImplemented') return put({});
          throw error;
        }
      });
    },
    async getFile(key, limit) {
      const command = new GetObjectCommand({ Bucket: bucket, Key: key });
      const found = await ifThere(ask(key, () => client.send(command, to.sending)));
      if (found === undefined) return undefined;
      if ((found.ContentLength ?? 0) > limit)
        throw new UnpackError('LIMIT_EXCEEDED', `${key} is longer than ${limit} bytes`);
      const bytes = await ask(key, async () => Buffer.from((await found.Body?.transformToByteArray()) ?? []));
      return { bytes, etag: found.ETag };
    },
    close: () => client.destroy(),
  };
}

interface Target {
  readonly client: S3Client;
  readonly bucket: string;
  readonly sending: { readonly abortSignal?: AbortSignal };
}

async function putWhole(
  { client, bucket, sending }: Target,
  key: string,
  descriptor: Descriptor,
  blob: StoredBlob,
  onBytes: ((count: number) => void) | undefined,
): Promise<void> {
  const bytes = await blob.read(0, blob.size);
  verify(descriptor, createHash(algorithmOf(descriptor.digest)).update(bytes).digest('hex'), blob.size);
  const object = { Bucket: bucket, Key: key, Body: bytes, ContentType: contentType(descriptor) };
  await client.send(new PutObjectCommand(object), sending);
  onBytes?.(bytes.length);
}

async function putParts(
  { client, bucket, sending }: Target,
  key: string,
  descriptor: Descriptor,
  blob: StoredBlob,
  onBytes: ((count: number) => void) | undefined,
  signal: AbortSignal | undefined,
): Promise<void> {
  const object = { Bucket: bucket, Key: key };
  const create = new CreateMultipartUploadCommand({ ...object, ContentType: contentType(descriptor) });
  const { UploadId } = await client.send(create, sending);
  const length = Math.max(PART, Math.ceil(blob.size / MOST_PARTS));
  const hash = createHash(algorithmOf(descriptor.digest));
  const parts: CompletedPart[] = [];
  let next = 0;
  let reading: Promise<unknown> = Promise.resolve();
  let failed = false;

  // bytes are read and hashed one part after the other, and sent several at once
  const readPart = (offset: number): Promise<Buffer> => {
    const read = reading.then(async () => {
      throwIfAborted(signal);
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
      Array.from({ length: AT_ONCE }, () =>
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
    // parts that nobody completes are paid for; the cause matters more than a failure to remove them
    const briefly = { abortSignal: AbortSignal.timeout(LONGEST_CLEANUP) };
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
    `the blob ${shortDigest(descriptor.digest)} (${descriptor.size} bytes) has ${size} bytes and the digest ${actual}; nothing was stored for it`,
    { details: { digest: descriptor.digest, expected: descriptor.digest, actual } },
  );
}
