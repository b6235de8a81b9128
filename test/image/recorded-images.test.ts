import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { imageIndex, layoutHead } from '../../dev/image-documents.ts';
import { UnpackError } from '../../src/errors.ts';
import type { ImageTarget } from '../../src/image/request.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { digestOf, hexOf } from '../../src/oci/digest.ts';
import { OCI_INDEX } from '../../src/oci/media-type.ts';
import type { Store } from '../../src/snapshots/store.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { changeDatabase } from '../snapshots/temporary-store.ts';
import { altered } from '../support/altered.ts';
import { SETTINGS } from '../support/apply.ts';
import { imageOf, layerOf, type TestImage, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

const HOUR = 3_600_000;
const one = imageOf([layerOf(tar(file('a', 'first'))), layerOf(tar(file('b', 'second')))]);
const other = imageOf([layerOf(tar(file('a', 'first'))), layerOf(tar(file('c', 'third')))]);
const AMD = { os: 'linux', architecture: 'amd64' };
const ARM = { os: 'linux', architecture: 'arm64' };

/** A store, and an unpacker of the images in a layout, under the tags of the object. */
async function stage(images: Readonly<Record<string, TestImage>>, change = (store: Store): Store => store) {
  const place = scratch();
  const path = join(place.path, 'layout');
  const root = join(place.path, 'store');
  await writeLayout(path, images);
  const store = await openStoreThread({ root, type: 'overlay' });
  const unpacker = createUnpacker(change(store), { threads: 2, apply: SETTINGS });
  const wanted = (target: ImageTarget, image = 'example/app:1', more = {}) =>
    ({ image, source: { kind: 'oci-layout', path }, request: { target, ...more } }) as const;
  return {
    path,
    root,
    store,
    unpacker,
    wanted,
    unpack: async (want: ReturnType<typeof wanted>, job?: string) => {
      const found = await unpacker.lookUp(want, { job });
      const owner = job === undefined ? undefined : { worker: 'w', job };
      return found.existing ?? (await unpacker.unpack(found, { owner }));
    },
    age: (milliseconds: number) => changeDatabase(root, `UPDATE images SET used = used - ${milliseconds}`),
    async [Symbol.asyncDispose]() {
      await unpacker.close();
      await store.close();
      place[Symbol.dispose]();
    },
  };
}

const byTag = (tag: string): ImageTarget => ({ kind: 'tag', tag });
const byManifest = ({ manifestDigest }: TestImage): ImageTarget => ({ kind: 'manifest', digest: manifestDigest });

/** Puts an index of images under a tag of the layout, beside their blobs. @returns its bytes */
async function writeIndex(path: string, manifests: readonly object[], tag = 'index'): Promise<Buffer> {
  const bytes = imageIndex(manifests);
  const descriptor: Descriptor = { mediaType: OCI_INDEX, digest: digestOf(bytes), size: bytes.length };
  await writeFile(join(path, 'blobs/sha256', hexOf(descriptor.digest)), bytes);
  for (const [name, content] of layoutHead([[tag, descriptor]])) await writeFile(join(path, name), content);
  return bytes;
}

describe('the record of an unpacked image', () => {
  it('has its documents byte for byte, the job and the source', async () => {
    await using s = await stage({ app: one });
    const index = await writeIndex(s.path, [{ ...one.manifest, platform: { os: 'linux', architecture: 'amd64' } }]);
    const [unpacked] = await s.unpack(s.wanted(byTag('index'), undefined, { platforms: [AMD] }), '7');
    const [image, ...others] = await s.store.images();
    assert.deepEqual(others, []);
    const { reference, platform, chainId, job, source } = image ?? {};
    assert.deepEqual(
      { reference, platform, chainId, job, source },
      { reference: 'example/app:1', platform: 'linux/amd64', chainId: one.chainId, job: '7', source: s.path },
    );
    assert.equal(unpacked?.chainId, one.chainId);
    assert.deepEqual(Buffer.from((await s.store.document(image?.indexDigest ?? '')) ?? []), index);
    for (const digest of [one.manifestDigest, one.configDigest]) {
      assert.ok(digest === image?.manifestDigest || digest === image?.configDigest);
      assert.deepEqual(Buffer.from((await s.store.document(digest)) ?? []), one.blobs.get(digest));
    }
  });

  it('is made before the result, also if all layers existed, for each reference', async () => {
    await using s = await stage({ app: one });
    await s.unpack(s.wanted(byManifest(one), 'example/app:1'), '1');
    assert.ok(await s.unpacker.lookUpCached(s.wanted(byManifest(one), 'example/app:1')));
    assert.equal(await s.unpacker.lookUpCached(s.wanted(byManifest(one), 'example/app:2')), undefined);
    await s.unpack(s.wanted(byManifest(one), 'example/app:2'), '2');
    assert.ok(await s.unpacker.lookUpCached(s.wanted(byManifest(one), 'example/app:2')));
    const images = (await s.store.images()).map(({ reference, job, chainId }) => [reference, job, chainId]);
    assert.deepEqual(images, [
      ['example/app:1', '1', one.chainId],
      ['example/app:2', '2', one.chainId],
    ]);
  });

  it('gets the time of the last job, at most once an hour', async () => {
    await using s = await stage({ app: one });
    const want = s.wanted(byManifest(one));
    await s.unpack(want, '1');
    const used = async () => (await s.store.images())[0]?.used.getTime() ?? 0;
    s.age(HOUR / 2);
    const before = await used();
    assert.ok(await s.unpacker.lookUpCached(want));
    await s.unpack(want, '2');
    assert.equal(await used(), before);
    s.age(HOUR);
    assert.equal(await s.unpacker.lookUpCached(want), undefined, 'the normal path has to write it');
    await s.unpack(want, '3');
    assert.ok(Date.now() - (await used()) < HOUR / 2);
    assert.ok(await s.unpacker.lookUpCached(want));
    assert.equal((await s.store.images())[0]?.job, '1');
  });

  it('is made again after it was removed, while other images keep the layers', async () => {
    await using s = await stage({ app: one });
    const want = s.wanted(byManifest(one));
    await s.unpack(want);
    await s.store.removeImage('example/app:1');
    assert.equal(await s.unpacker.lookUpCached(want), undefined);
    await s.unpack(want);
    assert.deepEqual(
      Buffer.from((await s.store.document(one.manifestDigest)) ?? []),
      one.blobs.get(one.manifestDigest),
    );
  });

  it('keeps the earlier image of a tag that has moved', async () => {
    await using s = await stage({ app: one });
    await s.unpack(s.wanted(byTag('app')));
    await writeLayout(s.path, { app: other });
    await s.unpack(s.wanted(byTag('app')));
    const images = (await s.store.images()).map(({ reference, chainId }) => [reference, chainId]);
    assert.deepEqual(images, [
      ['example/app:1', other.chainId],
      [`example/app:1@${one.manifestDigest}`, one.chainId],
    ]);
  });

  it('is one for each platform, and for each image if a platform has several', async () => {
    const arm = imageOf(other.layers, ARM);
    await using s = await stage({ app: one, other, arm });
    const on = (image: TestImage, platform: object) => ({ ...image.manifest, platform });
    await writeIndex(s.path, [on(one, AMD), on(other, AMD), on(arm, ARM)]);
    const want = s.wanted(byTag('index'), undefined, { platforms: 'all' });
    await s.unpack(want);
    const images = async () => (await s.store.images()).map((each) => [each.reference, each.platform, each.chainId]);
    const expected = [
      ['example/app:1', 'linux/amd64', one.chainId],
      ['example/app:1', 'linux/arm64/v8', arm.chainId],
      [`example/app:1@${other.manifestDigest}`, 'linux/amd64', other.chainId],
    ];
    assert.deepEqual(await images(), expected);
    await s.unpack(want);
    assert.deepEqual(await images(), expected, 'the second job changes nothing');
  });

  it('of explicit layers has no documents, and of an image without layers no snapshot', async () => {
    const empty = imageOf([]);
    await using s = await stage({ app: one, empty });
    const layers = one.layers.map(({ diff, blob }) => ({ diff, blob }));
    const [unpacked] = await s.unpack(s.wanted({ kind: 'layers', layers }, 'example/layers:1'));
    await s.unpack(s.wanted(byManifest(empty), 'example/empty:1'));
    assert.equal(unpacked?.config, undefined);
    const [none, explicit] = await s.store.images();
    assert.deepEqual([none?.chainId, none?.manifestDigest], [undefined, empty.manifestDigest]);
    assert.deepEqual([explicit?.platform, explicit?.manifestDigest, explicit?.chainId], ['', undefined, one.chainId]);
    assert.ok(await s.unpacker.lookUpCached(s.wanted(byManifest(empty), 'example/empty:1')));
  });

  it('must be written; only a new time of use may fail', async () => {
    let full = true;
    const change = (store: Store) =>
      altered(store, {
        recordImage: async (...args) => {
          if (full) throw new UnpackError('STORE_FULL', 'no space left');
          await store.recordImage(...args);
        },
      });
    await using s = await stage({ app: one }, change);
    const want = s.wanted(byManifest(one));
    await assert.rejects(s.unpack(want), { code: 'STORE_FULL' });
    await assert.rejects(s.unpack(want), { code: 'STORE_FULL' }, 'also if the layers existed');
    full = false;
    await s.unpack(want);
    full = true;
    s.age(2 * HOUR);
    assert.equal((await s.unpack(want))[0]?.chainId, one.chainId);
  });

  it('of layers that were removed and unpacked again has the new time and job', async () => {
    await using s = await stage({ app: one });
    const want = s.wanted(byManifest(one));
    await s.unpack(want, '1');
    const before = (await s.store.images())[0]?.unpacked.getTime() ?? 0;
    await s.store.remove(one.chainId);
    await s.unpack(want, '2');
    const [image] = await s.store.images();
    assert.ok((image?.unpacked.getTime() ?? 0) > before);
    assert.equal(image?.job, '2');
  });
});

describe('the result of an image', () => {
  it('has its mounts, as a view has them, and they can be mounted', async () => {
    await using s = await stage({ app: one });
    const want = s.wanted(byManifest(one));
    const [unpacked] = await s.unpack(want);
    assert.ok(unpacked);
    const [existing] = (await s.unpacker.lookUpCached(want)) ?? [];
    assert.deepEqual(existing?.mounts, unpacked.mounts);
    using at = scratch();
    await mountSnapshot(unpacked.mounts, at.path);
    try {
      assert.deepEqual(
        [readFileSync(join(at.path, 'a'), 'utf8'), readFileSync(join(at.path, 'b'), 'utf8')],
        ['first', 'second'],
      );
      await assert.rejects(writeFile(join(at.path, 'c'), ''), { code: 'EROFS' });
    } finally {
      await unmountSnapshot(at.path);
    }
  });

  it('is shared until the mounts change', async () => {
    await using s = await stage({ app: one });
    const want = s.wanted(byManifest(one));
    await s.unpack(want);
    const first = await s.unpacker.lookUpCached(want);
    await s.store.prepare('other', '');
    assert.equal(await s.unpacker.lookUpCached(want), first, 'another change of the store');
    await s.store.remove(one.chainId);
    assert.equal(await s.unpacker.lookUpCached(want), undefined);
    const [again] = await s.unpack(want);
    const existing = await s.unpacker.lookUpCached(want);
    assert.deepEqual(existing?.[0]?.mounts, again?.mounts);
    assert.notDeepEqual(existing?.[0]?.mounts, first?.[0]?.mounts);
  });

  it('has how its containers run', async () => {
    await using s = await stage({ app: one });
    const [unpacked] = await s.unpack(s.wanted(byManifest(one)));
    assert.deepEqual(unpacked?.config, {});
  });
});
