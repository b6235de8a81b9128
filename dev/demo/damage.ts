import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { s3Client } from '../../src/source/s3-client.ts';
import type { S3Connection } from '../../src/source/source-spec.ts';

/** Turns over one bit in the middle of an object. @returns the offset of its byte */
export async function flipBit(connection: S3Connection, bucket: string, key: string): Promise<number> {
  const client = s3Client(connection);
  try {
    const object = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
    const bytes = await object.Body?.transformToByteArray();
    if (bytes === undefined || bytes.length === 0) throw new Error(`s3://${bucket}/${key} is empty`);
    const offset = Math.floor(bytes.length / 2);
    bytes[offset] = (bytes[offset] ?? 0) ^ 1;
    await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: bytes }));
    return offset;
  } finally {
    client.destroy();
  }
}
