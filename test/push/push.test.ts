import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { create } from 'tar';
import { pushLines } from '../../src/cli/job-view.ts';
import { UnpackError } from '../../src/errors.ts';
import { resolveImages } from '../../src/image/resolve.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { digestOf, hexOf } from '../../src/oci/digest.ts';
import { REF_NAME } from '../../src/oci/image-index.ts';
import { type PushOptions, type PushProgress, pushImage } from '../../src/push/push.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import type { BucketLayout } from '../../src/source/source-spec.ts';
import { BUCKET, startTestBucket, type TestBucket } from '../support/bucket.ts';
import { eventually } from '../support/eventually.ts';
import { fails } from '../support/fails.ts';
import { startFaultyProxy } from '../support/faulty-s3.ts';
import { buildImage, buildIndex, json, type PutBlob } from '../support/image-builder.ts';

const MiB = 1024 * 1024;

describe('pushImage', () => {
  let bucket: TestBucket;
  let folder: string;
  let prefix = '';
  let count = 0;

  before(async () => {
    bucket = await startTestBucket();
  });
  after(() => bucket.close());
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'unpackd-push-'));
    count += 1;
    prefix = `push/${count}`;
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const put: PutBlob = async (bytes, mediaType) => {
    const digest = digestOf(bytes);
    await write(`blobs/sha256/${hexOf(digest)}`, bytes);
    return { mediaType, digest, size: bytes.length };
  };
  const write = async (name: string, bytes: Uint8Array | string) => {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), bytes);
  };
  /** Makes `folder` an OCI layout of these images by their names. */
  const layout = async (images: Readonly<Record<string, Descriptor>>) => {
    const manifests = Object.entries(images).map(([name, image]) => ({ ...image, annotations: { [REF_NAME]: name } }));
    await write('oci-layout', '{"imageLayoutVersion":"1.0.0"}');
    await write('index.json', json({ schemaVersion: 2, manifests }));
  };
  const push = (options: Partial<PushOptions> = {}) =>
    pushImage({ path: folder, bucket: BUCKET, prefix, connection: bucket.connection(), ...options });
  const source = (bucketLayout: BucketLayout = { kind: 'oci' }) =>
    openSource(bucket.spec({ prefix, layout: bucketLayout }));
  const tagOf = async (tag: string, bucketLayout?: BucketLayout) => (await source(bucketLayout).resolveTag(tag)).digest;

  test('copies an image that can be resolved and read, in every layout', async () => {
    const layers = [randomBytes(1000), Buffer.alloc(0), randomBytes(20)];
    const image = await buildImage(put, { layers });
    await layout({ v1: image });
    for (const bucketLayout of [
      { kind: 'oci' },
      { kind: 'distribution', repository: 'library/app' },
      { kind: 'keys', template: 'objects/{algorithm}/{hex}' },
    ] as const) {
      const pushed = await push({ layout: bucketLayout });
      assert.equal(pushed.digest, image.digest);
      const from = source(bucketLayout);
      const target = { kind: 'manifest', digest: image.digest } as const;
      const [found] = await resolveImages(from, { target });
      for (const [index, layer] of (found?.layers ?? []).entries()) {
        assert.deepEqual(await readBlob(from, layer.blob, { limit: MiB }), layers[index]);
      }
      assert.equal(found?.layers.length, 3);
      if (bucketLayout.kind !== 'keys') assert.equal(await tagOf('v1', bucketLayout), image.digest);
      from.close();
    }
  });

  test('copies everything that an index lists, with artifacts', async () => {
    const sbom = await buildImage(put, {
      manifest: { artifactType: 'application/vnd.example.sbom' },
      layers: [Buffer.from('s')],
    });
    const arm = await buildImage(put, { platform: { os: 'linux', architecture: 'arm64' } });
    const index = await buildIndex(put, [await buildIndex(put, [arm]), sbom]);
    await layout({ v1: index });
    const pushed = await push({ layout: { kind: 'distribution' }, repository: 'app', tag: 'v2' });
    assert.deepEqual([pushed.tag, pushed.mediaType], ['v2', index.mediaType]);
    assert.equal(pushed.uploaded.count, 8);
    assert.equal(await tagOf('v2', { kind: 'distribution', repository: 'app' }), index.digest);
  });

  test('sends a large blob in parts and verifies it', async () => {
    const big = randomBytes(40 * MiB + 17);
    const image = await buildImage(put, { layers: [big] });
    await layout({ v1: image });
    const progress: PushProgress[] = [];
    const pushed = await push({ onProgress: (now) => progress.push(now) });
    assert.ok((await readBlob(source(), digestOf(big), { limit: 64 * MiB })).equals(big));
    const last = progress.at(-1);
    assert.equal(last?.sent, pushed.uploaded.bytes);
    assert.equal(last?.total, pushed.uploaded.bytes);
    assert.ok(progress.length >= 5, 'parts are reported one by one');
  });

  test('reports each layer: it waits, is sent, or existed', async () => {
    const layers = [randomBytes(20 * MiB), randomBytes(100)];
    await layout({ v1: await buildImage(put, { layers }) });
    const progress: PushProgress[] = [];
    await push({ onProgress: (now) => progress.push(now) });
    const states = (index: number) => [...new Set(progress.map(({ layers }) => layers[index]?.state))];
    assert.deepEqual(states(0), ['waiting', 'sending', 'sent']);
    assert.deepEqual(states(1), ['waiting', 'sending', 'sent']);
    assert.ok(
      progress.some(({ layers: [first] }) => first?.state === 'sending' && first.sent > 0 && first.sent < first.size),
    );
    const again: PushProgress[] = [];
    await push({ onProgress: (now) => again.push(now) });
    assert.deepEqual(
      again.at(-1)?.layers,
      layers.map((bytes) => ({ digest: digestOf(bytes), size: bytes.length, sent: 0, state: 'existed' })),
    );
    assert.match(
      pushLines(again.at(-1) ?? progress[0] ?? assert.fail(), undefined)[1] ?? '',
      /^ {2}1 {2}\[#{24}\] +20\.0 MiB {2}existed {2}sha256:/,
    );
  });

  test('does not send a blob that the bucket has with the right size', async () => {
    await layout({ v1: await buildImage(put, { layers: [randomBytes(1000)] }) });
    const first = await push();
    const again = await push();
    assert.equal(again.uploaded.count, 0);
    assert.deepEqual(again.skipped, first.uploaded);
    const [key] = [`${prefix}/blobs/sha256/${hexOf(first.digest)}`];
    await bucket.put(key, 'cut off');
    assert.equal((await push()).uploaded.count, 1);
    assert.ok((await resolveImages(source(), { target: { kind: 'tag', tag: 'v1' } })).length === 1);
  });

  test('keeps the other tags of an index, and replaces the same tag', async () => {
    const [one, two] = [
      await buildImage(put, { layers: [Buffer.from('1')] }),
      await buildImage(put, { layers: [Buffer.from('2')] }),
    ];
    await layout({ v1: one, v2: two });
    await bucket.put(`${prefix}/index.json`, json({ schemaVersion: 2, annotations: { kept: 'yes' }, manifests: [] }));
    await push({ tag: 'v1' });
    await push({ image: 'v1', tag: 'latest' });
    await push({ tag: 'v2' });
    await push({ image: 'v2', tag: 'latest' });
    assert.deepEqual(
      [await tagOf('v1'), await tagOf('v2'), await tagOf('latest')],
      [one.digest, two.digest, two.digest],
    );
    const index: unknown = await (await fetch(`${bucket.server.endpoint}/${BUCKET}/${prefix}/index.json`)).json();
    assert.deepEqual((index as { annotations: unknown }).annotations, { kept: 'yes' });
  });

  test('does not overwrite an index.json that is not an index', async () => {
    await layout({ v1: await buildImage(put) });
    await bucket.put(`${prefix}/index.json`, '{"something": "else"}');
    await fails('MANIFEST_INVALID', push());
  });

  test('reads a tar of an OCI layout', async () => {
    const image = await buildImage(put, { layers: [randomBytes(3 * MiB)] });
    await layout({ v1: image });
    const path = `${folder}.tar`;
    await create({ cwd: folder, file: path }, ['.']);
    try {
      assert.equal((await push({ path })).digest, image.digest);
      assert.equal(await tagOf('v1'), image.digest);
    } finally {
      await rm(path);
    }
  });

  describe('of a docker save archive', () => {
    const layers = [Buffer.from('bottom'), Buffer.from('top')];
    const save = async (diffs = layers.map((bytes) => digestOf(bytes))) => {
      const config = { os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: [...diffs, diffs[0]] } };
      await write('aaaa.json', json(config));
      await write('1111/layer.tar', layers[0] ?? '');
      await write('2222/layer.tar', layers[1] ?? '');
      await mkdir(join(folder, '3333'));
      await symlink('../1111/layer.tar', join(folder, '3333/layer.tar')); // as docker save wrote equal layers
      const Layers = ['1111/layer.tar', '2222/layer.tar', '3333/layer.tar'];
      await write('manifest.json', json([{ Config: 'aaaa.json', RepoTags: ['example.com:5000/app:v7'], Layers }]));
      const path = join(folder, 'saved.tar');
      await create({ cwd: folder, file: path }, ['aaaa.json', '1111', '2222', '3333', 'manifest.json']);
      return path;
    };

    test('makes an OCI manifest of its layers and uses its tag', async () => {
      const pushed = await push({ path: await save() });
      assert.equal(pushed.tag, 'v7');
      const [found] = await resolveImages(source(), { target: { kind: 'tag', tag: 'v7' } });
      const expected = [...layers, layers[0] ?? Buffer.alloc(0)].map((bytes) => digestOf(bytes));
      assert.deepEqual(
        found?.layers.map(({ blob }) => blob.digest),
        expected,
      );
      assert.deepEqual(
        found?.layers.map(({ diff }) => diff.digest as string),
        expected,
      );
    });

    test('refuses layers without the diff_ids of the config', async () => {
      const path = await save([digestOf(Buffer.from('other')), digestOf(layers[1] ?? Buffer.alloc(0))]);
      await fails('BLOB_DIGEST_MISMATCH', push({ path }));
    });
  });

  describe('fails', () => {
    test('if the file is not an archive', async () => {
      await write('file', randomBytes(2000));
      await fails('MANIFEST_INVALID', push({ path: join(folder, 'file') }));
      await fails('MANIFEST_INVALID', push());
      await fails('IMAGE_NOT_FOUND', push({ path: join(folder, 'nothing') }));
    });

    test('if the archive is truncated', async () => {
      await layout({ v1: await buildImage(put, { layers: [randomBytes(MiB)] }) });
      const path = join(folder, 'cut.tar');
      const whole = join(folder, 'whole.tar');
      await create({ cwd: folder, file: whole }, ['index.json', 'blobs']);
      await writeFile(path, (await readFile(whole)).subarray(0, MiB / 2));
      const error = await fails('MANIFEST_INVALID', push({ path }));
      assert.match(error.message, /not complete/);
    });

    test('with a list if there are several images', async () => {
      await layout({ v1: await buildImage(put, { layers: [Buffer.from('1')] }), v2: await buildImage(put) });
      assert.match((await fails('IMAGE_NOT_FOUND', push())).message, /2 images; say which one: v1, v2/);
      await fails('IMAGE_NOT_FOUND', push({ image: 'v3' }));
    });

    test('if a blob is missing, and writes no tag', async () => {
      const image = await buildImage(put, { layers: [Buffer.from('gone')] });
      await layout({ v1: image });
      await rm(join(folder, 'blobs/sha256', hexOf(digestOf(Buffer.from('gone')))));
      await fails('BLOB_NOT_FOUND', push());
      await fails('IMAGE_NOT_FOUND', tagOf('v1'));
    });

    for (const size of [100, 20 * MiB]) {
      test(`if a blob of ${size} bytes has another digest, and does not store it`, async () => {
        const bytes = randomBytes(size);
        await layout({ v1: await buildImage(put, { layers: [bytes] }) });
        await write(`blobs/sha256/${hexOf(digestOf(bytes))}`, randomBytes(size));
        await fails('BLOB_DIGEST_MISMATCH', push());
        await fails('BLOB_NOT_FOUND', readBlob(source(), digestOf(bytes), { limit: 64 * MiB }));
      });
    }

    test('if bucket, prefix, tag or repository are not valid', async () => {
      await layout({ v1: await buildImage(put) });
      await fails('INVALID_JOB', push({ prefix: 'a/../b' }));
      await fails('INVALID_JOB', push({ bucket: '../b' }));
      await fails('INVALID_JOB', push({ tag: 'a/b' }));
      await fails('INVALID_JOB', push({ layout: { kind: 'distribution', repository: '../../x' } }));
      await fails('INVALID_JOB', push({ layout: { kind: 'distribution' } }));
      assert.match((await fails('IMAGE_NOT_FOUND', push({ bucket: 'no-such-bucket' }))).message, /no bucket/);
    });

    test('at once after an abort, in the middle of a large blob', async () => {
      await layout({ v1: await buildImage(put, { layers: [randomBytes(20 * MiB)] }) });
      const rules = [
        { fault: { kind: 'silence' }, when: ({ method }: { method: string }) => method === 'PUT' },
      ] as const;
      const proxy = await startFaultyProxy({ target: bucket.server.endpoint, rules });
      const connection = bucket.connection({ endpoint: proxy.endpoint });
      const abort = new AbortController();
      // nothing but the abort ends it
      const pushing = push({ connection: { ...connection, idleTimeout: 3_600_000 }, signal: abort.signal });
      const failed = fails('TIMED_OUT', pushing);
      await eventually('a blob is on its way', () => proxy.seen.some(({ method }) => method === 'PUT'));
      abort.abort(new UnpackError('TIMED_OUT', 'it took too long'));
      await failed;
      await proxy.close();
    });
  });

  test('retries if the bucket is busy for a moment', async () => {
    await layout({ v1: await buildImage(put, { layers: [randomBytes(20 * MiB)] }) });
    const fault = { kind: 'status', status: 503, code: 'SlowDown' } as const;
    const proxy = await startFaultyProxy({ target: bucket.server.endpoint, rules: [{ fault, times: 2 }] });
    await push({ connection: bucket.connection({ endpoint: proxy.endpoint }) });
    assert.ok(await tagOf('v1'));
    await proxy.close();
  });
});
