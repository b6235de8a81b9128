import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, test } from 'node:test';
import '../support/needs-root.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { hexOf } from '../../src/oci/digest.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { SETTINGS } from '../support/apply.ts';
import { startTestBucket, type TestBucket } from '../support/bucket.ts';
import { type FaultyProxy, startFaultyProxy } from '../support/faulty-s3.ts';
import { imageOf, layerOf, layoutFiles, type TestImage, type TestLayer } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

/** The requests of unpacking an image, counted by a proxy in front of a real S3 server. */
let bucket: TestBucket;
let proxy: FaultyProxy;
before(async () => {
  bucket = await startTestBucket();
  proxy = await startFaultyProxy({ target: bucket.server.endpoint });
});
after(async () => {
  await proxy.close();
  await bucket.close();
});

/** A new store, and the image in a new folder of the bucket. */
async function stage(prefix: string, layers: readonly TestLayer[]) {
  const image = imageOf(layers);
  for (const [path, bytes] of layoutFiles({ app: image })) await bucket.put(`${prefix}/${path}`, bytes);
  const place = scratch();
  const snapshotter = await openSnapshotter({ root: place.path, type: 'overlay', durable: false });
  const unpacker = createUnpacker(snapshotter, { threads: 2, apply: SETTINGS });
  const source = bucket.spec({ prefix, connection: bucket.connection({ endpoint: proxy.endpoint }) });
  const request = { target: { kind: 'tag', tag: 'app' } } as const;
  return {
    image,
    unpack: async () => unpacker.unpack(await unpacker.lookUp({ image: 'app', source, request })),
    async [Symbol.asyncDispose]() {
      await unpacker.close();
      await snapshotter.close();
      place[Symbol.dispose]();
    },
  };
}

/** The requests for each layer's blob, bottom-most first. */
function askedFor(prefix: string, image: TestImage): (string | undefined)[][] {
  return image.layers.map(({ blob }) =>
    proxy.seen.filter(({ key }) => key === `${prefix}/blobs/sha256/${hexOf(blob.digest)}`).map(({ range }) => range),
  );
}

const small = (name: string) => layerOf(tar(file(name, name.repeat(1000))));

test('each layer is fetched and applied once for many jobs at the same time', async () => {
  await using s = await stage('shared', [small('a'), small('b'), small('c')]);
  const all = await Promise.all([s.unpack(), s.unpack(), s.unpack()]);
  assert.deepEqual(
    askedFor('shared', s.image).map((requests) => requests.length),
    [1, 1, 1],
  );
  const applied = all.flat().flatMap(({ layers }) => layers.filter(({ phase }) => phase === 'applied'));
  assert.equal(applied.length, 3, 'later jobs find the layer in the store');
});

test('an image in the store is looked up and not fetched', async () => {
  await using s = await stage('known', [small('a'), small('b')]);
  await s.unpack();
  const before = proxy.seen.length;
  await s.unpack();
  const asked = proxy.seen.slice(before).map(({ key }) => key);
  assert.ok(asked.length <= 1, `at most the tag is requested again, not ${asked.join(', ')}`);
});

test('simultaneous lookups of a tag share one request that begins after all of them', async () => {
  await using s = await stage('tags', [small('a')]);
  await s.unpack();
  const before = proxy.seen.length;
  await Promise.all(Array.from({ length: 20 }, () => s.unpack()));
  const asked = proxy.seen.slice(before).map(({ key }) => key);
  assert.deepEqual(asked, ['tags/index.json', 'tags/index.json'], 'one for the first lookup, one for all later ones');
});

test('a large blob is fetched by one request from a fast bucket', async () => {
  const layer = layerOf(tar(file('random.bin', randomBytes(12 * 2 ** 20 + 12_345))), 'none');
  await using s = await stage('large', [layer]);
  await s.unpack();
  const [requests = []] = askedFor('large', s.image);
  // ranges may be requested beside it, but never the whole blob again
  assert.equal(requests[0], undefined);
  for (const range of requests.slice(1)) assert.match(range ?? '', /^bytes=\d+-\d+$/);
});
