import { PutObjectCommand } from '@aws-sdk/client-s3';
import { type S3Server, startS3Server } from '../../dev/s3/server.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { type DigestAlgorithm, digestOf, hexOf } from '../../src/oci/digest.ts';
import { s3Client } from '../../src/source/s3-client.ts';
import type { S3Connection, S3SourceSpec } from '../../src/source/source-spec.ts';

export const BUCKET = 'images';

/** Settings for an S3 server of a test. The time limits are long, because the machine may be busy. */
export function connectionTo(endpoint: string, overrides: Partial<S3Connection> = {}): S3Connection {
  return {
    endpoint,
    region: 'us-east-1',
    forcePathStyle: true,
    credentials: { accessKeyId: 'key', secretAccessKey: 'secret' },
    connectTimeout: 60_000,
    idleTimeout: 60_000,
    maxResumes: 3,
    ...overrides,
  };
}

/** The S3 server of dev/s3 with one bucket, and the calls that tests make. */
export interface TestBucket {
  readonly server: S3Server;
  /** Connection settings for the server, or for a proxy in front of it.  */
  connection(overrides?: Partial<S3Connection>): S3Connection;
  /** The bucket as a source. Default: layout `oci` under the prefix `mirror`. */
  spec(overrides?: Partial<S3SourceSpec>): S3SourceSpec;
  put(key: string, body: Uint8Array | string): Promise<void>;
  /** Stores a blob under the key of the layout `oci`. */
  putBlob(body: Uint8Array, mediaType?: string, algorithm?: DigestAlgorithm): Promise<Descriptor>;
  close(): Promise<void>;
}

export async function startTestBucket(): Promise<TestBucket> {
  const server = await startS3Server({ buckets: [BUCKET] });
  const { endpoint, region, accessKeyId, secretAccessKey } = server;
  const connection = (overrides: Partial<S3Connection> = {}): S3Connection =>
    connectionTo(endpoint, { region, credentials: { accessKeyId, secretAccessKey }, ...overrides });
  const client = s3Client(connection());
  const put = async (key: string, body: Uint8Array | string) => {
    await client.send(new PutObjectCommand({ Bucket: BUCKET, Key: key, Body: body }));
  };
  return {
    server,
    connection,
    spec: (overrides = {}) => ({
      kind: 's3',
      bucket: BUCKET,
      prefix: 'mirror',
      layout: { kind: 'oci' },
      connection: connection(),
      ...overrides,
    }),
    put,
    async putBlob(body, mediaType = 'application/octet-stream', algorithm = 'sha256') {
      const digest = digestOf(body, algorithm);
      await put(`mirror/blobs/${algorithm}/${hexOf(digest)}`, body);
      return { mediaType, digest, size: body.length };
    },
    async close() {
      client.destroy();
      await server.close();
    },
  };
}
