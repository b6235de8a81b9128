import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { checkS3 } from '../../src/doctor/s3.ts';
import { proxiesOf } from '../../src/http/proxy.ts';
import { resolveImages } from '../../src/image/resolve.ts';
import { digestOf, hexOf } from '../../src/oci/digest.ts';
import { pushImage } from '../../src/push/push.ts';
import { openUploader } from '../../src/push/uploader.ts';
import { fetchBlob } from '../../src/source/fetch.ts';
import { GrantedBlobs } from '../../src/source/granted-blobs.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import { s3Client } from '../../src/source/s3-client.ts';
import type { BucketLayout, S3Connection } from '../../src/source/source-spec.ts';
import { runCli } from '../cli/run-cli.ts';
import { BUCKET, connectionTo } from '../support/bucket.ts';
import { fails } from '../support/fails.ts';
import { type FaultRule, startFaultyProxy } from '../support/faulty-s3.ts';
import { startProxy } from '../support/http-proxy.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { type OtherS3, S3_DOMAIN, s3rver, swift } from '../support/other-s3.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

const MiB = 1024 * 1024;
const oci: BucketLayout = { kind: 'oci' };
/** More than one part of an upload, and several ranges of a download. */
const bigLayer = layerOf(tar(file('big', randomBytes(18 * MiB))), 'none');
const images = {
  big: imageOf([bigLayer, layerOf(tar(file('small', 'x')))]),
  small: imageOf([layerOf(tar(file('a')))]),
};
const big = bigLayer.blob;
const bigKey = `blobs/sha256/${hexOf(big.digest)}`;
/** Characters that a signature and a URL encode in different ways. */
const ODD_PREFIX = "team a/50%+x&y=z;~'()!*@$,:/grün-日本";

describe('an S3 server that others wrote', { concurrency: true }, () => {
  for (const kind of [s3rver, swift]) {
    describe(kind.name, { skip: kind.skip, concurrency: 1, timeout: 180_000 }, () => {
      const folder = scratch();
      let server: OtherS3;
      before(async () => {
        server = await kind.start();
        await writeLayout(folder.path, images);
        await push('big', 'download');
      });
      after(async () => {
        await server[Symbol.asyncDispose]();
        folder[Symbol.dispose]();
      });

      const to = (overrides: Partial<S3Connection> = {}) =>
        connectionTo(server.endpoint, { credentials: server.credentials, ...overrides });
      const sourceOf = (
        connection: S3Connection,
        prefix: string,
        layout: BucketLayout = { kind: 'oci' },
        bucket = BUCKET,
      ) => openSource({ kind: 's3', bucket, prefix, layout, connection });
      const push = (image: keyof typeof images, prefix: string, layout: BucketLayout = oci, connection = to()) =>
        pushImage({ path: folder.path, image, tag: 'v1', bucket: BUCKET, prefix, layout, connection });

      /** Resolves an image by its tag, and reads every blob as a job does. */
      const readImage = async (
        name: keyof typeof images,
        prefix: string,
        layout: BucketLayout = oci,
        connection = to(),
      ) => {
        const image = images[name];
        await using opened = new AsyncDisposableStack();
        const source = opened.adopt(sourceOf(connection, prefix, layout), (one) => one.close());
        const granted = opened.adopt(new GrantedBlobs(), (one) => one.close());
        if (layout.kind !== 'keys') assert.equal((await source.resolveTag('v1')).digest, image.manifestDigest);
        const [found] = await resolveImages(source, { target: { kind: 'manifest', digest: image.manifestDigest } });
        assert.equal(found?.layers.length, image.layers.length);
        for (const { blob } of found?.layers ?? []) {
          const read = await readBlob(granted.open(await source.grant(blob)), blob, { limit: 64 * MiB });
          assert.ok(read.equals(image.blobs.get(blob.digest) ?? Buffer.alloc(0)));
        }
      };

      test('has a pushed image, with a blob in parts', async () => {
        await readImage('big', 'download');
        assert.equal((await push('big', 'download')).skipped.count, 4, 'HEAD has the size');
      });

      for (const layout of [
        { kind: 'distribution', repository: 'library/app' },
        { kind: 'keys', template: 'objects/{algorithm}/{hex}' },
      ] as const) {
        test(`has an image in the layout ${layout.kind}`, async () => {
          await push('small', 'layouts', layout);
          await readImage('small', 'layouts', layout);
        });
      }

      test('has an image under a prefix with odd characters', async () => {
        await push('small', ODD_PREFIX);
        await readImage('small', ODD_PREFIX);
      });

      test('has no conditional writes, so the last of several pushes at the same time wins', async () => {
        const uploader = openUploader(to(), BUCKET, {});
        for (const text of ['first', 'second']) {
          await uploader.putFile('written', Buffer.from(text), 'text/plain', { etag: undefined });
        }
        assert.equal(String((await uploader.getFile('written', 100))?.bytes), 'second');
        uploader.close();
      });

      test('has the bucket in the host name', { skip: !kind.bucketInHost }, async () => {
        const proxy = await startProxy({ target: server.endpoint });
        try {
          const proxies = proxiesOf({ HTTP_PROXY: proxy.address });
          const virtual = to({ endpoint: `http://${S3_DOMAIN}`, forcePathStyle: false, ...(proxies && { proxies }) });
          await push('big', 'virtual host', oci, virtual);
          await readImage('big', 'virtual host', oci, virtual);
          const origin = `http://${BUCKET}.${S3_DOMAIN}/`;
          assert.ok(proxy.seen.length > 10 && proxy.seen.every((url) => url.startsWith(origin)), proxy.seen.join(' '));
        } finally {
          proxy.close();
        }
      });

      const download = async (rules: readonly FaultRule[]) => {
        const faulty = await startFaultyProxy({ target: server.endpoint, rules });
        const source = sourceOf(to({ endpoint: faulty.endpoint }), 'download');
        const granted = new GrantedBlobs();
        try {
          const pieces: Buffer[] = [];
          const blob = granted.open(await source.grant(big));
          for await (const chunk of fetchBlob(blob, big, { firstDelay: 1 })) pieces.push(Buffer.from(chunk));
          assert.ok(Buffer.concat(pieces).equals(bigLayer.bytes));
          return faulty.seen;
        } finally {
          granted.close();
          source.close();
          await faulty.close();
        }
      };

      test('resumes a download that was cut', async () => {
        const seen = await download([
          { fault: { kind: 'drop', afterBytes: 5 * MiB }, times: 1 },
          { fault: { kind: 'drop', afterBytes: 7 * MiB }, times: 1 },
        ]);
        assert.ok(seen.length >= 3 && seen.slice(1).every(({ range }) => range !== undefined));
      });

      test('gives ranges beside a slow download', async () => {
        const seen = await download([
          { fault: { kind: 'trickle', bytes: 64 * 1024, everyMs: 20 }, when: ({ range }) => range === undefined },
        ]);
        assert.ok(seen.some(({ range }) => /^bytes=\d+-\d+$/.test(range ?? '')));
      });

      test('refuses to resume an object that was replaced', async () => {
        await push('big', 'replaced');
        const replace = async () => {
          const client = s3Client(to());
          const other = Buffer.alloc(big.size, 'x');
          await client.send(new PutObjectCommand({ Bucket: BUCKET, Key: `replaced/${bigKey}`, Body: other }));
          client.destroy();
        };
        const faulty = await startFaultyProxy({
          target: server.endpoint,
          rules: [
            { fault: { kind: 'drop', afterBytes: 5 * MiB }, times: 1 },
            { fault: { kind: 'drop', afterBytes: 0 }, times: 1, before: replace },
          ],
        });
        const source = sourceOf(to({ endpoint: faulty.endpoint }), 'replaced');
        const { message } = await fails('BLOB_DIGEST_MISMATCH', readBlob(source, big, { limit: 64 * MiB }));
        assert.match(message, /replaced|ETag/);
        source.close();
        await faulty.close();
      });

      test('refuses a wrong secret and an unknown key', async () => {
        const { accessKeyId } = server.credentials;
        for (const credentials of [
          { accessKeyId, secretAccessKey: 'wrong' },
          { accessKeyId: 'nobody', secretAccessKey: 'wrong' },
        ]) {
          const connection = to({ credentials });
          const source = sourceOf(connection, 'download');
          await fails('SOURCE_DENIED', source.resolveTag('v1'));
          await fails('SOURCE_DENIED', readBlob(source, big, { limit: 64 * MiB }));
          await fails('SOURCE_DENIED', push('small', 'denied', oci, connection));
          source.close();
          const checks = await checkS3({ connection }, [BUCKET]);
          assert.deepEqual(
            checks.map(({ status, advice }) => [status, /AWS_ACCESS_KEY_ID/.test(advice ?? '')]),
            [['fail', true]],
          );
        }
      });

      test('is read with another region, and tells uploads the right one', { skip: !kind.checksRegion }, async () => {
        const elsewhere = to({ region: 'eu-central-1' });
        await readImage('small', 'layouts', { kind: 'keys', template: 'objects/{algorithm}/{hex}' }, elsewhere);
        const { message } = await fails('SOURCE_DENIED', push('small', 'elsewhere', oci, elsewhere));
        assert.match(message, /the bucket is in the region us-east-1 \(400 .*; set AWS_REGION to us-east-1/);
      });

      test('does not have a bucket, a key or a tag', async () => {
        const missing = digestOf(Buffer.from('nowhere'));
        const source = sourceOf(to(), 'download');
        const nowhere = sourceOf(to(), '', oci, 'nowhere');
        await fails('BLOB_NOT_FOUND', readBlob(source, missing, { limit: 100 }));
        await fails('IMAGE_NOT_FOUND', source.resolveTag('v9'));
        await fails('IMAGE_NOT_FOUND', sourceOf(to(), 'elsewhere').resolveTag('v1'));
        assert.match((await fails('IMAGE_NOT_FOUND', nowhere.resolveTag('v1'))).message, /no bucket s3:\/\/nowhere/);
        const uploader = openUploader(to(), 'nowhere', {});
        await fails('IMAGE_NOT_FOUND', uploader.putFile('a', Buffer.from('a'), 'text/plain'));
        uploader.close();
        source.close();
        nowhere.close();
        const checks = await checkS3({ connection: to() }, [BUCKET, 'nowhere']);
        assert.deepEqual(
          checks.map(({ status }) => status),
          ['ok', 'fail'],
        );
      });

      test('serves the command line: push and apply', async () => {
        using store = scratch();
        const { accessKeyId, secretAccessKey } = server.credentials;
        const env = {
          S3_ENDPOINT: server.endpoint,
          AWS_REGION: 'us-east-1',
          AWS_ACCESS_KEY_ID: accessKeyId,
          AWS_SECRET_ACCESS_KEY: secretAccessKey,
          UNPACK_OWNERSHIP: 'squash',
        };
        const address = `s3://${BUCKET}/cli:v1`;
        const pushed = await runCli(['push', `${folder.path}:small`, address], { env });
        assert.equal(pushed.status, 0, pushed.stderr);
        const applied = await runCli(['apply', address, '--root', store.path, '--json'], { env });
        assert.equal(applied.status, 0, applied.stderr);
        assert.equal(JSON.parse(applied.stdout).images[0].chainId, images.small.chainId);
      });
    });
  }
});
