import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import {
  AbortMultipartUploadCommand,
  type CompletedPart,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateMultipartUploadCommand,
  DeleteObjectsCommand,
  GetBucketAclCommand,
  GetObjectCommand,
  HeadBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectsCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  PutObjectCommand,
  paginateListObjectsV2,
  type S3Client,
  UploadPartCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import { type S3Server, startS3Server } from '../../dev/s3/server.ts';
import { s3Client, signedUrl } from '../../src/source/s3-client.ts';

const Bucket = 'images';

describe('the S3 server for development', () => {
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
    // a stream is sent in chunks with the checksum behind them
    const bodies = ['hello', Object.assign(Readable.from([Buffer.from('hel'), Buffer.from('lo')]), { length: 5 })];
    for (const body of bodies) {
      await plain.send(new PutObjectCommand({ Bucket, Key: 'checksum', Body: body, ContentLength: 5 }));
      const { Body } = await plain.send(new GetObjectCommand({ Bucket, Key: 'checksum' }));
      assert.equal(await Body?.transformToString(), 'hello');
    }
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

  test('writes only where the condition holds', async () => {
    const conditional = (Body: string, condition: object) =>
      client.send(new PutObjectCommand({ Bucket, Key: 'conditional', Body, ...condition }));
    await assert.rejects(conditional('one', { IfMatch: '"none"' }), named('NoSuchKey'));
    const { ETag } = await conditional('one', { IfNoneMatch: '*' });
    await assert.rejects(conditional('two', { IfNoneMatch: '*' }), named('PreconditionFailed'));
    await conditional('two', { IfMatch: ETag });
    await assert.rejects(conditional('three', { IfMatch: ETag }), named('PreconditionFailed'));
    const { Body } = await client.send(new GetObjectCommand({ Bucket, Key: 'conditional' }));
    assert.equal(await Body?.transformToString(), 'two');
  });

  test('answers a read whose If-None-Match names the object with 304', async () => {
    const { ETag } = await put('unchanged', 'one');
    const request = client.send(new GetObjectCommand({ Bucket, Key: 'unchanged', IfNoneMatch: ETag }));
    await assert.rejects(request, (error: { $metadata?: { httpStatusCode?: number } }) => {
      return error.$metadata?.httpStatusCode === 304;
    });
  });

  test('accepts a presigned URL, but not another key, nor after its time', async () => {
    await put('a key/with ünusual (characters)!', 'signed');
    const url = await signedUrl(client, Bucket, 'a key/with ünusual (characters)!', { seconds: 60 });
    assert.equal(await (await fetch(url)).text(), 'signed');
    assert.equal((await fetch(url.replace('a%20key', 'a%20kex'))).status, 403);
    const late = await signedUrl(client, Bucket, 'a/b', { seconds: 60, clockOffset: -120_000 });
    assert.match(await (await fetch(late)).text(), /<Code>AccessDenied/);
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

  test('lists more than 1,000 keys in pages', async () => {
    const keys = Array.from({ length: 1050 }, (_, index) => `many/${String(index).padStart(5, '0')}`);
    for (let at = 0; at < keys.length; at += 100)
      await Promise.all(keys.slice(at, at + 100).map((key) => put(key, key)));
    const found: string[] = [];
    let pages = 0;
    for await (const { Contents = [] } of paginateListObjectsV2({ client }, { Bucket, Prefix: 'many/' })) {
      found.push(...Contents.map(({ Key = '' }) => Key));
      pages += 1;
    }
    assert.deepEqual(found, keys);
    assert.equal(pages, 2);
    const Objects = keys.slice(0, 1000).map((Key) => ({ Key }));
    await client.send(new DeleteObjectsCommand({ Bucket, Delete: { Objects } }));
    const left = await client.send(new ListObjectsV2Command({ Bucket, Prefix: 'many/', MaxKeys: 1 }));
    assert.deepEqual(left.Contents?.[0]?.Key, keys[1000]);
  });

  test('makes an object of the parts of an upload, in their order', async () => {
    const key = { Bucket, Key: 'of-parts' };
    const { UploadId } = await client.send(new CreateMultipartUploadCommand(key));
    const send = async (PartNumber: number, Body: Buffer) => {
      const { ETag } = await client.send(new UploadPartCommand({ ...key, UploadId, PartNumber, Body }));
      return { PartNumber, ETag };
    };
    const last = await send(3, Buffer.from('end'));
    await put('source', 'a copied part');
    const first = await send(1, Buffer.alloc(5 << 20, 'x'));
    const complete = (Parts: CompletedPart[]) =>
      client.send(new CompleteMultipartUploadCommand({ ...key, UploadId, MultipartUpload: { Parts } }));
    await assert.rejects(complete([last, first]), named('EntityTooSmall'));
    await assert.rejects(complete([first, { ...last, ETag: '"0"' }]), named('InvalidPart'));
    const { ETag } = await complete([first, last]);
    assert.match(ETag ?? '', /^"[0-9a-f]{32}-2"$/);
    const { Body } = await client.send(new GetObjectCommand({ ...key, Range: 'bytes=-5' }));
    assert.equal(await Body?.transformToString(), 'xxend');
  });

  test('copies an object, and a range of one into a part', async () => {
    await put('source', 'hello');
    await client.send(new CopyObjectCommand({ Bucket, Key: 'copy', CopySource: `${Bucket}/source` }));
    const upload = { Bucket, Key: 'copied-part' };
    const { UploadId } = await client.send(new CreateMultipartUploadCommand(upload));
    const copy = { ...upload, UploadId, PartNumber: 1, CopySource: `${Bucket}/copy`, CopySourceRange: 'bytes=1-3' };
    const { CopyPartResult } = await client.send(new UploadPartCopyCommand(copy));
    const Parts = [{ PartNumber: 1, ETag: CopyPartResult?.ETag }];
    await client.send(new CompleteMultipartUploadCommand({ ...upload, UploadId, MultipartUpload: { Parts } }));
    const { Body } = await client.send(new GetObjectCommand(upload));
    assert.equal(await Body?.transformToString(), 'ell');
  });

  test('refuses a range behind the end, and a call that it does not have', async () => {
    await put('short', 'hello');
    const behind = client.send(new GetObjectCommand({ Bucket, Key: 'short', Range: 'bytes=5-' }));
    await assert.rejects(behind, named('InvalidRange'));
    await assert.rejects(client.send(new GetBucketAclCommand({ Bucket: 'images' })), named('NotImplemented'));
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
