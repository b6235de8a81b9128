import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  AbortMultipartUploadCommand,
  CreateMultipartUploadCommand,
  GetObjectCommand,
  HeadBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectsCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  PutObjectCommand,
  type S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { type S3Server, startS3Server } from '../../dev/s3-server.ts';
import { s3Client } from '../../src/source/s3-client.ts';

const Bucket = 'images';

describe('the embedded S3 server', () => {
  let server: S3Server;
  let client: S3Client;
  before(async () => {
    server = await startS3Server({ buckets: [Bucket] });
    client = clientOf(server);
  });
  after(async () => {
    client.destroy();
    await server.close();
  });

  const put = (Key: string, Body: string | Buffer) => client.send(new PutObjectCommand({ Bucket, Key, Body }));
  const named = (name: string) => (error: unknown) => error instanceof Error && error.name === name;

  test('keeps objects, by ranges too', async () => {
    await put('a/b', 'hello');
    const whole = await client.send(new GetObjectCommand({ Bucket, Key: 'a/b' }));
    assert.equal(await whole.Body?.transformToString(), 'hello');
    const part = await client.send(new GetObjectCommand({ Bucket, Key: 'a/b', Range: 'bytes=2-' }));
    assert.equal(await part.Body?.transformToString(), 'llo');
    assert.equal(part.ContentRange, 'bytes 2-4/5');
  });

  test('keeps the SDK default checksums out of the objects', async () => {
    const { endpoint, region, accessKeyId, secretAccessKey } = server;
    const { S3Client: Plain } = await import('@aws-sdk/client-s3');
    const plain = new Plain({ endpoint, region, forcePathStyle: true, credentials: { accessKeyId, secretAccessKey } });
    await plain.send(new PutObjectCommand({ Bucket, Key: 'checksum', Body: 'hello' }));
    const { Body } = await plain.send(new GetObjectCommand({ Bucket, Key: 'checksum' }));
    assert.equal(await Body?.transformToString(), 'hello');
    plain.destroy();
  });

  test('refuses another object than If-Match names', async () => {
    const { ETag } = await put('versioned', 'one');
    await client
      .send(new GetObjectCommand({ Bucket, Key: 'versioned', IfMatch: ETag }))
      .then(({ Body }) => Body?.transformToString());
    await put('versioned', 'two');
    await assert.rejects(
      client.send(new GetObjectCommand({ Bucket, Key: 'versioned', IfMatch: ETag })),
      named('PreconditionFailed'),
    );
  });

  test('checks signatures', async () => {
    const stranger = clientOf({ ...server, secretAccessKey: 'wrong' });
    await assert.rejects(stranger.send(new GetObjectCommand({ Bucket, Key: 'a/b' })), named('SignatureDoesNotMatch'));
    stranger.destroy();
  });

  test('knows which buckets there are', async () => {
    await client.send(new HeadBucketCommand({ Bucket }));
    await assert.rejects(client.send(new ListObjectsV2Command({ Bucket: 'nowhere' })), named('NoSuchBucket'));
  });

  test('lists in order of bytes, by prefix and delimiter, in pages', async () => {
    for (const key of ['list/b', 'list/a/deep/er', 'list/a/x', 'list/B', 'list/a.x']) await put(key, key);
    const all = await client.send(new ListObjectsV2Command({ Bucket, Prefix: 'list/' }));
    assert.deepEqual(
      all.Contents?.map(({ Key }) => Key),
      ['list/B', 'list/a.x', 'list/a/deep/er', 'list/a/x', 'list/b'],
    );
    const folder = await client.send(new ListObjectsCommand({ Bucket, Prefix: 'list/', Delimiter: '/' }));
    assert.deepEqual(
      folder.Contents?.map(({ Key }) => Key),
      ['list/B', 'list/a.x', 'list/b'],
    );
    assert.deepEqual(folder.CommonPrefixes, [{ Prefix: 'list/a/' }]);
    const page = await client.send(new ListObjectsCommand({ Bucket, Prefix: 'list/', MaxKeys: 2, Marker: 'list/a.x' }));
    assert.deepEqual(
      page.Contents?.map(({ Key }) => Key),
      ['list/a/deep/er', 'list/a/x'],
    );
    assert.equal(page.IsTruncated, true);
  });

  test('tells which uploads and parts there are, and forgets an upload', async () => {
    const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket, Key: 'up/load' }));
    const upload = { Bucket, Key: 'up/load', UploadId };
    await client.send(new UploadPartCommand({ ...upload, PartNumber: 2, Body: 'two' }));
    await client.send(new UploadPartCommand({ ...upload, PartNumber: 1, Body: 'one!' }));
    const { Uploads } = await client.send(new ListMultipartUploadsCommand({ Bucket, Prefix: 'up/' }));
    assert.deepEqual(
      Uploads?.map((one) => [one.Key, one.UploadId]),
      [['up/load', UploadId]],
    );
    const { Parts } = await client.send(new ListPartsCommand(upload));
    assert.deepEqual(
      Parts?.map(({ PartNumber, Size }) => [PartNumber, Size]),
      [
        [1, 4],
        [2, 3],
      ],
    );
    await client.send(new AbortMultipartUploadCommand(upload));
    assert.equal((await client.send(new ListMultipartUploadsCommand({ Bucket }))).Uploads, undefined);
  });

  test('keeps what is in its folder for the next start', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'unpackd-s3-test-'));
    for (const body of [undefined, 'kept']) {
      const one = await startS3Server({ directory, buckets: [Bucket] });
      const its = clientOf(one);
      if (body === undefined) await its.send(new PutObjectCommand({ Bucket, Key: 'k', Body: 'kept' }));
      else
        assert.equal(
          await (await its.send(new GetObjectCommand({ Bucket, Key: 'k' }))).Body?.transformToString(),
          body,
        );
      its.destroy();
      await one.close();
    }
    assert.deepEqual(await readdir(directory), [Bucket]);
    await rm(directory, { recursive: true });
  });
});

function clientOf({ endpoint, region, accessKeyId, secretAccessKey }: S3Server): S3Client {
  const credentials = { accessKeyId, secretAccessKey };
  return s3Client({
    endpoint,
    region,
    credentials,
    forcePathStyle: true,
    connectTimeout: 1000,
    idleTimeout: 5000,
    maxResumes: 0,
  });
}
