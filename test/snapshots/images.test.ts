import assert from 'node:assert/strict';
import { StatementSync } from 'node:sqlite';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageKey, ImageListing, NewImage } from '../../src/snapshots/images.ts';
import { openSnapshotter, openToRead } from '../../src/snapshots/open.ts';
import { SnapshotError } from '../../src/snapshots/snapshotter.ts';
import type { Store, StoreReader } from '../../src/snapshots/store.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';
import { changeDatabase, refused, type TemporaryStore, withStore } from './temporary-store.ts';

const HOUR = 3_600_000;
const APP = 'registry.example/app:1';
const documentsOf = (...digests: readonly string[]) =>
  new Map(digests.map((digest) => [digest, Buffer.from(`document ${digest}`)]));

/** An image whose documents are named after its manifest. */
function image(manifestDigest: string, chainId: string, more: Partial<NewImage> = {}): NewImage {
  const configDigest = `config-${manifestDigest}`;
  return { reference: APP, platform: 'linux/amd64', chainId, manifestDigest, configDigest, source: 's3://b', ...more };
}

/** When an image was used last. */
const usedOf = async (store: StoreReader, one: ImageKey) => (await store.lookUpImage(one))?.used;

const record = (store: Store, one: NewImage) =>
  store.recordImage(one, documentsOf(one.manifestDigest ?? '', one.configDigest ?? '', one.indexDigest ?? ''));

const named = (images: readonly ImageListing[]) =>
  images.map(({ reference, manifestDigest, pinned }) => `${reference} ${manifestDigest}${pinned ? ' pinned' : ''}`);

/** Makes all recorded times of use older. */
const age = (root: string, milliseconds: number) =>
  changeDatabase(root, `UPDATE images SET used = used - ${milliseconds}`);

interface Context extends Omit<TemporaryStore, 'store'> {
  readonly store: Store;
}

function imagesSuite(name: string, open: typeof openSnapshotter): void {
  const behaviour = (sentence: string, body: (context: Context) => Promise<void>) =>
    test(sentence, () => {
      let store: Store | undefined;
      const opening: typeof open = async (options) => {
        const opened = await open(options);
        store ??= opened;
        return opened;
      };
      return withStore(
        'overlay',
        async (context) => {
          assert.ok(store);
          await body({ ...context, store });
        },
        opening,
      );
    });

  describe(`images of a store, ${name}`, () => {
    behaviour('are recorded with their documents, and listed with the time of their top snapshot', async (context) => {
      const { store, layer } = context;
      await layer('base', '');
      const before = Date.now();
      await record(store, image('m1', 'base', { indexDigest: 'i1', job: '7' }));
      const [found, ...others] = await store.images();
      assert.ok(found);
      assert.deepEqual(others, []);
      assert.deepEqual(found.unpacked, (await store.stat('base')).created);
      assert.ok(found.used.getTime() >= before && found.used.getTime() <= Date.now());
      const { reference, platform, chainId, manifestDigest, configDigest, indexDigest, source, job, pinned } = found;
      assert.deepEqual(
        { reference, platform, chainId, manifestDigest, configDigest, indexDigest, source, job, pinned },
        { ...image('m1', 'base', { indexDigest: 'i1', job: '7' }), pinned: false },
      );
      for (const digest of ['m1', 'config-m1', 'i1']) {
        assert.equal(Buffer.from((await store.document(digest)) ?? []).toString(), `document ${digest}`);
      }
      assert.equal(await store.document('m2'), undefined);
    });

    behaviour('are NotFound if the store has not the top snapshot, or it is broken', async ({ store, root, layer }) => {
      await refused(record(store, image('m1', 'base')), 'NotFound');
      await layer('base', '');
      changeDatabase(root, `UPDATE snapshots SET broken = 'gone'`);
      await refused(record(store, image('m1', 'base')), 'NotFound');
      assert.deepEqual(await store.images(), []);
      assert.equal(await store.document('m1'), undefined, 'nothing of it is written');
    });

    behaviour('have a time of use, if reference, platform, chain ID and manifest are those', async (context) => {
      const { store, layer } = context;
      await layer('base', '');
      const one = image('m1', 'base');
      assert.equal(await usedOf(store, one), undefined);
      await record(store, one);
      assert.deepEqual(await usedOf(store, one), (await store.images())[0]?.used);
      for (const other of [{ manifestDigest: 'm2' }, { chainId: 'other' }, { platform: '' }, { reference: 'x' }]) {
        assert.equal(await usedOf(store, { ...one, ...other }), undefined, JSON.stringify(other));
      }
      await store.removeImage(APP);
      assert.equal(await usedOf(store, one), undefined);
    });

    behaviour('are looked up with their mounts, recorded or not, until the top snapshot is gone', async (context) => {
      const { store, root, layer } = context;
      await layer('base', '');
      await layer('top', 'base');
      const one = image('m1', 'top');
      assert.deepEqual(await store.lookUpImage(one), { mounts: await store.viewMounts('top'), used: undefined });
      await record(store, one);
      const used = (await store.images())[0]?.used;
      assert.deepEqual(await store.lookUpImage(one), { mounts: await store.view('look', 'top'), used });
      assert.deepEqual(await store.lookUpImage({ ...one, chainId: undefined }), { mounts: [], used: undefined });
      await store.remove('look');
      changeDatabase(root, `UPDATE snapshots SET broken = 'gone' WHERE key = 'top'`);
      assert.equal(await store.lookUpImage(one), undefined);
      await store.remove('top');
      assert.equal(await store.lookUpImage(one), undefined);
    });

    behaviour(
      'keep the job that unpacked them, until their layers are unpacked again',
      async ({ store, root, layer }) => {
        await layer('base', '');
        await record(store, image('m1', 'base', { job: '1', source: 's3://one' }));
        age(root, 2 * HOUR);
        await record(store, image('m1', 'base', { job: '2', source: 's3://two' }));
        const [found] = await store.images();
        assert.deepEqual([found?.job, found?.source], ['1', 's3://one']);
        assert.ok(Date.now() - (found?.used.getTime() ?? 0) < HOUR);
        changeDatabase(root, 'UPDATE snapshots SET created = created + 1');
        await record(store, image('m1', 'base', { job: '3', source: 's3://three' }));
        const [again] = await store.images();
        assert.deepEqual([again?.job, again?.source], ['3', 's3://three']);
      },
    );

    behaviour('keep their record as NAME@DIGEST when the reference moves; the pin stays with it', async (context) => {
      const { store, root, layer } = context;
      await layer('base', '');
      await record(store, image('m1', 'base'));
      await store.pinImage(APP, undefined, true);
      age(root, HOUR);
      const [{ used } = { used: undefined }] = await store.images();
      await record(store, image('m2', 'base'));
      assert.deepEqual(named(await store.images()), [`${APP} m2 pinned`, `${APP}@m1 m1`]);
      assert.deepEqual((await store.images())[1]?.used, used);
      assert.ok(await store.document('m1'));
      // back, and away again: no record is kept twice
      await record(store, image('m1', 'base'));
      await record(store, image('m2', 'base'));
      assert.deepEqual(named(await store.images()), [`${APP} m2 pinned`, `${APP}@m1 m1`, `${APP}@m2 m2`]);
      await record(store, image('m3', 'base', { platform: 'linux/arm64/v8' }));
      assert.equal((await store.images()).length, 4, 'the image of another platform is another one');
    });

    behaviour('lose their documents with the last image that has them', async ({ store, layer }) => {
      await layer('base', '');
      await record(store, image('m1', 'base', { indexDigest: 'i' }));
      await record(store, image('m2', 'base', { platform: 'linux/arm64/v8', indexDigest: 'i' }));
      const removed = await store.removeImage(APP, 'linux/amd64');
      assert.deepEqual(
        removed.map(({ manifestDigest }) => manifestDigest),
        ['m1'],
      );
      const left = async () => {
        const digests = ['m1', 'config-m1', 'm2', 'config-m2', 'i'];
        const found = await Promise.all(digests.map((digest) => store.document(digest)));
        return digests.filter((_, index) => found[index] !== undefined);
      };
      assert.deepEqual(await left(), ['m2', 'config-m2', 'i']);
      await record(store, image('m2', 'base', { platform: 'linux/arm64/v8' }));
      assert.deepEqual(await left(), ['m2', 'config-m2'], 'the same image, found without its index');
      await store.removeImage(APP);
      assert.deepEqual(await left(), []);
      await refused(store.removeImage(APP), 'NotFound');
      assert.equal((await store.stat('base')).kind, 'committed', 'the snapshots stay');
    });

    behaviour('are not removed while they are pinned', async ({ store, layer }) => {
      await layer('base', '');
      await record(store, image('m1', 'base'));
      await refused(store.pinImage('other', undefined, true), 'NotFound');
      await refused(store.pinImage(APP, 'linux/arm64/v8', true), 'NotFound');
      assert.equal((await store.pinImage(APP, 'linux/amd64', true))[0]?.pinned, true);
      await refused(store.removeImage(APP), 'FailedPrecondition');
      await store.pinImage(APP, undefined, false);
      assert.equal((await store.removeImage(APP)).length, 1);
    });

    behaviour('without layers have no snapshot', async ({ store }) => {
      await record(store, { ...image('m1', ''), chainId: undefined });
      const [found] = await store.images();
      assert.deepEqual([found?.chainId, found?.broken, found?.own.bytes], [undefined, undefined, 0]);
    });

    behaviour('of explicit layers have no documents', async ({ store, layer }) => {
      await layer('base', '');
      const layers = { reference: APP, platform: '', chainId: 'base', source: 's3://b' };
      await store.recordImage(layers, new Map());
      assert.ok(await usedOf(store, layers));
      assert.equal((await store.images())[0]?.manifestDigest, undefined);
    });

    behaviour('are listed with their own and their shared sizes, and with what stands on them', async (context) => {
      const { store, root, layer } = context;
      await layer('base', '');
      await layer('left', 'base');
      await layer('right', 'base');
      await layer('new', 'right');
      changeDatabase(root, `UPDATE snapshots SET bytes = NULL, inodes = NULL`);
      const sizes = { base: 1000, left: 200, right: 30 };
      for (const [name, bytes] of Object.entries(sizes)) {
        changeDatabase(root, `UPDATE snapshots SET bytes = ${bytes}, inodes = 1 WHERE key = '${name}'`);
      }
      await record(store, image('m1', 'left', { reference: 'a' }));
      await record(store, image('m2', 'new', { reference: 'b' }));
      await record(store, image('m3', 'base', { reference: 'c' }));
      await store.view('look', 'new');
      await store.prepare('container', 'new');
      await store.prepare('extract-1 layer', 'new');
      const seen = (await store.images()).map(({ own, shared, unmeasured, usedBy }) => [
        own.bytes,
        own.inodes,
        shared.bytes,
        unmeasured,
        usedBy,
      ]);
      assert.deepEqual(seen, [
        [200, 1, 1000, 0, []],
        [30, 1, 1000, 1, ['container', 'look']],
        [0, 0, 1000, 0, []],
      ]);
    });

    behaviour('whose snapshots were removed or are broken are listed as such', async ({ store, root, layer }) => {
      await layer('base', '');
      await layer('other', '');
      await record(store, image('m1', 'base', { reference: 'a' }));
      await record(store, image('m2', 'other', { reference: 'b' }));
      changeDatabase(root, `UPDATE snapshots SET broken = 'foreign' WHERE key = 'other'`);
      await store.remove('base');
      assert.deepEqual(
        (await store.images()).map(({ broken }) => broken),
        ['gone', 'foreign'],
      );
    });

    behaviour(
      'are used by prepare and view, at most once an hour, and not by the unpacking of a layer',
      async (context) => {
        const { store, root, layer } = context;
        await layer('base', '');
        await layer('top', 'base');
        await record(store, image('m1', 'top'));
        await record(store, image('m2', 'top', { reference: 'same' }));
        const fresh = async () => {
          const images = await store.images();
          return images.map(({ used }) => Math.round((Date.now() - used.getTime()) / HOUR));
        };
        age(root, 5 * HOUR);
        await store.prepare('extract-1 layer', 'top');
        await store.prepare('lower', 'base');
        assert.deepEqual(await fresh(), [5, 5]);
        await store.prepare('container', 'top');
        assert.deepEqual(await fresh(), [0, 0], 'all images of this snapshot');
        age(root, 5 * HOUR);
        await store.view('look', 'top');
        assert.deepEqual(await fresh(), [0, 0]);
        age(root, HOUR - 60_000);
        const before = (await store.images()).map(({ used }) => used);
        await store.view('again', 'top');
        assert.deepEqual(
          (await store.images()).map(({ used }) => used),
          before,
        );
        age(root, -50 * HOUR); // a clock that was wrong
        await store.view('later', 'top');
        assert.deepEqual(await fresh(), [0, 0]);
      },
    );

    behaviour('can be read without a change of the store', async ({ store, root, layer }) => {
      await layer('base', '', (directory) => writeFileSync(join(directory, 'file'), 'text'));
      await record(store, image('m1', 'base'));
      const reader = await openToRead({ root, type: 'overlay' });
      try {
        assert.deepEqual(await reader.images(), await store.images());
        assert.deepEqual(await usedOf(reader, image('m1', 'base')), (await store.images())[0]?.used);
        assert.equal(String(Buffer.from((await reader.document('m1')) ?? [])), 'document m1');
      } finally {
        await reader.close();
      }
    });
  });
}

imagesSuite('on the calling thread', openSnapshotter);
imagesSuite('on a thread of its own', openStoreThread);

test('errors of image records keep their kind between threads', () =>
  withStore('overlay', async ({ root }) => {
    const store = await openStoreThread({ root, type: 'overlay' });
    try {
      await assert.rejects(
        store.removeImage('x'),
        (error) => error instanceof SnapshotError && error.kind === 'NotFound',
      );
    } finally {
      await store.close();
    }
  }));

test('an image that is removed during its lookup is there or not, and never an error', async (t) => {
  await withStore('overlay', async ({ store, root, layer }) => {
    await layer('top', '');
    const { get } = StatementSync.prototype;
    // another process removes the snapshot after the first statement that has found it
    t.mock.method(
      StatementSync.prototype,
      'get',
      function (this: StatementSync, ...args: Parameters<StatementSync['get']>) {
        const row = get.apply(this, args);
        if (row !== undefined && args.some((value) => value === 'top')) {
          t.mock.restoreAll();
          changeDatabase(root, `DELETE FROM snapshots WHERE key = 'top'`);
        }
        return row;
      },
    );
    assert.equal((await store.viewMounts('top')).length, 1);
    await refused(store.viewMounts('top'), 'NotFound');
  });
});
