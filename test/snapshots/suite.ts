import assert from 'node:assert/strict';
import { chown, link, lstat, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { toUnpackError } from '../../src/errors.ts';
import { LABEL_SNAPSHOT_REF, type Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { refused, type TemporaryStore } from './temporary-store.ts';

/** Runs a test in a new store. */
export type Within = (body: (context: TemporaryStore) => Promise<void>) => Promise<void>;

/**
 * The behaviour of every Snapshotter, as its interface describes it.
 * @param store its name in the names of the tests
 */
export function snapshotterSuite(store: string, within: Within): void {
  const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
    test(sentence, () => within(body));

  describe(`${store}: stat`, () => {
    behaviour('returns an active snapshot by its key, with parent, labels and times', async ({ store, layer }) => {
      await layer('base', '');
      const before = Date.now();
      await store.prepare('key', 'base', { labels: { a: '1' } });
      const info = await store.stat('key');
      const { created, updated, nanoseconds, ...rest } = info;
      assert.deepEqual(rest, { ...KEY, parent: 'base', labels: { a: '1' } });
      assert.ok(created.getTime() >= before && created.getTime() <= Date.now());
      assert.deepEqual(updated, created);
      assert.equal(nanoseconds?.updated, nanoseconds?.created);
    });

    behaviour('returns a view and a committed snapshot', async ({ store, layer }) => {
      await layer('base', '');
      await store.view('look', 'base');
      assert.equal((await store.stat('look')).kind, 'view');
      assert.equal((await store.stat('base')).kind, 'committed');
    });

    behaviour('is NotFound for an unknown key', async ({ store }) => {
      await refused(store.stat('nothing'), 'NotFound');
    });
  });

  describe(`${store}: has`, () => {
    behaviour('is true for committed snapshots only', async ({ store, layer }) => {
      await layer('base', '');
      await store.view('look', 'base');
      await store.prepare('key', 'base');
      const found = await Promise.all(['base', 'look', 'key', 'nothing', ''].map((name) => store.has(name)));
      assert.deepEqual(found, [true, false, false, false, false]);
    });

    behaviour('sees commits and removals of another process at once', async ({ store, reopen }) => {
      const other = await reopen();
      for (let times = 0; times < 3; times++) {
        assert.equal(await store.has('name'), false);
        await other.prepare('key', '');
        await other.commit('name', 'key', { synced: true });
        assert.equal(await store.has('name'), true);
        await other.remove('name');
      }
      assert.equal(await store.has('name'), false);
    });
  });

  describe(`${store}: keys`, () => {
    behaviour('lists active snapshots and views with the prefix, sorted', async ({ store, layer }) => {
      await layer('base', '');
      await layer('extract-committed', '');
      for (const key of ['extract-b', 'extract-a 1', 'extract', 'extract.', 'extracu-', 'EXTRACT-a'])
        await store.prepare(key, '');
      await store.view('extract-view', 'base');
      assert.deepEqual(await store.keys('extract-'), ['extract-a 1', 'extract-b', 'extract-view']);
      assert.deepEqual(await store.keys('nothing'), []);
    });
  });

  describe(`${store}: prepare and view`, () => {
    behaviour('an empty parent gives an empty writable directory', async ({ store, mounted }) => {
      await mounted(await store.prepare('key', ''), async (directory) => {
        assert.deepEqual(await readdir(directory), []);
        await writeFile(join(directory, 'file'), 'text');
      });
    });

    behaviour('a new snapshot starts with the parent’s files', async ({ store, layer, mounted }) => {
      await layer('base', '', (directory) => writeFile(join(directory, 'file'), 'text'));
      await mounted(await store.prepare('key', 'base'), async (directory) => {
        assert.equal(await readFile(join(directory, 'file'), 'utf8'), 'text');
      });
    });

    behaviour('writes into it do not change the parent', async ({ store, layer, mounted }) => {
      await layer('base', '', (directory) => writeFile(join(directory, 'file'), 'text'));
      await mounted(await store.prepare('key', 'base'), async (directory) => {
        await writeFile(join(directory, 'file'), 'other');
        await writeFile(join(directory, 'more'), '');
      });
      await mounted(await store.view('look', 'base'), async (directory) => {
        assert.deepEqual(await readdir(directory), ['file']);
        assert.equal(await readFile(join(directory, 'file'), 'utf8'), 'text');
      });
    });

    behaviour('the root of a new snapshot is 0755 whatever the umask', async ({ store, mounted }) => {
      const umask = process.umask(0o077);
      try {
        await mounted(await store.prepare('key', ''), async (directory) => {
          assert.equal((await stat(directory)).mode & 0o7777, 0o755);
        });
      } finally {
        process.umask(umask);
      }
    });

    behaviour(
      "the root of a new snapshot takes its owner from the parent's root",
      async ({ store, layer, mounted }) => {
        await layer('base', '', (directory) => chown(directory, 1234, 5678));
        await mounted(await store.prepare('key', 'base'), async (directory) => {
          const { uid, gid } = await stat(directory);
          assert.deepEqual([uid, gid], [1234, 5678]);
        });
      },
    );

    behaviour('a view can be read and not written', async ({ store, layer, mounted }) => {
      await layer('base', '', (directory) => writeFile(join(directory, 'file'), 'text'));
      await layer('top', 'base');
      for (const [key, parent] of [
        ['nothing', ''],
        ['one', 'base'],
        ['two', 'top'],
      ] as const) {
        await mounted(await store.view(key, parent), async (directory) => {
          assert.deepEqual(await readdir(directory), parent === '' ? [] : ['file']);
          await assert.rejects(writeFile(join(directory, 'new'), ''), { code: 'EROFS' });
        });
      }
    });

    behaviour('a key that is in use is AlreadyExists, for any kind of snapshot', async ({ store, layer }) => {
      await layer('base', '');
      await store.prepare('key', '');
      for (const key of ['key', 'base']) {
        await refused(store.prepare(key, ''), 'AlreadyExists');
        await refused(store.view(key, 'base'), 'AlreadyExists');
      }
    });

    behaviour('an unknown parent is NotFound', async ({ store }) => {
      await refused(store.prepare('key', 'nothing'), 'NotFound');
      await refused(store.view('key', 'nothing'), 'NotFound');
    });

    behaviour('a parent that is not committed is InvalidArgument', async ({ store, layer }) => {
      await layer('base', '');
      await store.prepare('active', 'base');
      await store.view('look', 'base');
      for (const parent of ['active', 'look']) {
        await refused(store.prepare('key', parent), 'InvalidArgument');
        await refused(store.view('key', parent), 'InvalidArgument');
      }
    });

    behaviour('an empty key is InvalidArgument', async ({ store }) => {
      await refused(store.prepare('', ''), 'InvalidArgument');
    });

    behaviour('one of several concurrent calls for one key succeeds', async ({ store }) => {
      const results = await Promise.allSettled(Array.from({ length: 20 }, () => store.prepare('key', '')));
      const failures = results.filter((result) => result.status === 'rejected');
      assert.equal(failures.length, 19);
      for (const { reason } of failures) await refused(Promise.reject(reason), 'AlreadyExists');
    });
  });

  describe(`${store}: mounts`, () => {
    behaviour('returns the same mounts as prepare and view', async ({ store, layer }) => {
      await layer('base', '');
      await layer('top', 'base');
      assert.deepEqual(await store.prepare('a', ''), await store.mounts('a'));
      assert.deepEqual(await store.prepare('b', 'top'), await store.mounts('b'));
      assert.deepEqual(await store.view('c', 'base'), await store.mounts('c'));
      assert.deepEqual(await store.view('d', 'top'), await store.mounts('d'));
    });

    behaviour('an unknown key is NotFound, and a committed snapshot has no mounts', async ({ store, layer }) => {
      await layer('base', '');
      await refused(store.mounts('nothing'), 'NotFound');
      await refused(store.mounts('base'), 'NotFound');
    });
  });

  describe(`${store}: viewMounts`, () => {
    behaviour('returns what view would return, and makes no snapshot', async ({ store, layer }) => {
      await layer('base', '');
      await layer('middle', 'base');
      await layer('top', 'middle');
      for (const name of ['base', 'middle', 'top']) {
        const mounts = await store.viewMounts(name);
        assert.deepEqual(await store.keys('v'), []);
        assert.deepEqual(mounts, await store.view('view', name));
        await store.remove('view');
      }
    });
  });

  describe(`${store}: commit`, () => {
    behaviour('the snapshot gets its name, and its key is free', async ({ store, layer }) => {
      await layer('base', '');
      await store.prepare('key', 'base');
      await store.commit('name', 'key');
      await refused(store.stat('key'), 'NotFound');
      const { kind, parent } = await store.stat('name');
      assert.deepEqual({ kind, parent }, { kind: 'committed', parent: 'base' });
    });

    behaviour('the labels of the commit replace all earlier labels', async ({ store }) => {
      await store.prepare('key', '', { labels: { old: '1', [LABEL_SNAPSHOT_REF]: 'old' } });
      await store.commit('name', 'key', { labels: { new: '2', [LABEL_SNAPSHOT_REF]: 'name' } });
      assert.deepEqual((await store.stat('name')).labels, { new: '2', [LABEL_SNAPSHOT_REF]: 'name' });
    });

    behaviour('a name that is in use is AlreadyExists, and the active snapshot stays', async ({ store, layer }) => {
      await layer('name', '');
      await store.prepare('key', '');
      await refused(store.commit('name', 'key'), 'AlreadyExists');
      await refused(store.commit('key', 'key'), 'AlreadyExists');
      assert.equal((await store.stat('key')).kind, 'active');
    });

    behaviour('an unknown key is NotFound', async ({ store }) => {
      await refused(store.commit('name', 'nothing'), 'NotFound');
    });

    behaviour('a view and a committed snapshot are InvalidArgument', async ({ store, layer }) => {
      await layer('base', '');
      await store.view('look', 'base');
      await refused(store.commit('name', 'look'), 'InvalidArgument');
      await refused(store.commit('name', 'base'), 'InvalidArgument');
    });

    behaviour('the same parent may be given again, another one is InvalidArgument', async (context) => {
      const { store, layer } = context;
      await layer('base', '');
      await layer('other', '');
      await store.prepare('key', 'base');
      await refused(store.commit('name', 'key', { parent: 'other' }), 'InvalidArgument');
      await store.commit('name', 'key', { parent: 'base' });
      assert.equal((await store.stat('name')).parent, 'base');
    });

    behaviour('one of several concurrent commits to one name succeeds, the others stay active', async ({ store }) => {
      const keys = Array.from({ length: 10 }, (_, index) => `key-${index}`);
      await Promise.all(keys.map((key) => store.prepare(key, '')));
      const results = await Promise.allSettled(keys.map((key) => store.commit('name', key)));
      assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1);
      assert.equal((await store.walk({ kind: 'active' })).length, 9);
    });

    behaviour('without a count leaves the size unknown', async ({ store }) => {
      await store.prepare('key', '');
      await store.commit('name', 'key');
      assert.equal((await store.stat('name')).size, undefined);
    });
  });

  describe(`${store}: remove`, () => {
    behaviour('removes active snapshots, views and committed snapshots', async ({ store, layer }) => {
      await layer('base', '');
      await store.prepare('key', 'base');
      await store.view('look', 'base');
      for (const key of ['key', 'look', 'base']) {
        await store.remove(key);
        await refused(store.stat(key), 'NotFound');
      }
    });

    behaviour('a snapshot with children is FailedPrecondition until they are removed', async ({ store, layer }) => {
      await layer('base', '');
      await layer('top', 'base');
      await refused(store.remove('base'), 'FailedPrecondition');
      await store.remove('top');
      for (const make of [store.prepare('child', 'base'), store.view('look', 'base')]) await make;
      await refused(store.remove('base'), 'FailedPrecondition');
      await store.remove('child');
      await refused(store.remove('base'), 'FailedPrecondition');
      await store.remove('look');
      await store.remove('base');
    });

    behaviour('an unknown or removed key is NotFound', async ({ store }) => {
      await store.prepare('key', '');
      await store.remove('key');
      await refused(store.remove('key'), 'NotFound');
    });

    behaviour('links to the outside are removed, their targets stay', async ({ store, beside, layer }) => {
      await writeFile(join(beside, 'outside'), 'text');
      await layer('base', '', async (directory) => {
        await symlink(beside, join(directory, 'directory'));
        await symlink(join(beside, 'outside'), join(directory, 'file'));
      });
      await store.remove('base');
      await store.cleanup();
      assert.equal(await readFile(join(beside, 'outside'), 'utf8'), 'text');
    });
  });

  describe(`${store}: update`, () => {
    behaviour('without fields all labels are replaced, and nothing else', async ({ store, layer }) => {
      await layer('base', '');
      await store.prepare('key', 'base', { labels: { a: '1', b: '2' } });
      const before = await store.stat('key');
      const given = { ...before, parent: 'nothing', labels: { a: '3' } };
      const after = await store.update(given);
      assert.deepEqual(after.labels, { a: '3' });
      assert.equal(after.parent, 'base');
      assert.ok(after.updated >= before.updated);
      assert.deepEqual(await store.stat('key'), after);
    });

    behaviour('a named label is set, or removed without a new value; the others stay', async ({ store }) => {
      await store.prepare('key', '', { labels: { a: '1', b: '2', c: '3' } });
      const given = { name: 'key', labels: { a: 'new', d: 'ignored' } };
      const after = await store.update(given, ['labels.a', 'labels.b']);
      assert.deepEqual(after.labels, { a: 'new', c: '3' });
    });

    behaviour('a label name may contain dots and slashes', async ({ store }) => {
      await store.prepare('key', '');
      const given = { name: 'key', labels: { 'a.b/c.d': '1' } };
      assert.deepEqual((await store.update(given, ['labels.a.b/c.d'])).labels, { 'a.b/c.d': '1' });
    });

    behaviour('views and committed snapshots can have labels', async ({ store, layer }) => {
      await layer('base', '');
      await store.view('look', 'base');
      for (const name of ['base', 'look']) {
        assert.deepEqual((await store.update({ name, labels: { a: '1' } }, ['labels'])).labels, { a: '1' });
      }
    });

    behaviour('any other field is InvalidArgument and changes nothing', async ({ store }) => {
      await store.prepare('key', '');
      const given = { name: 'key', labels: { a: '1' } };
      await refused(store.update(given, ['labels.a', 'parent']), 'InvalidArgument');
      assert.deepEqual((await store.stat('key')).labels, {});
    });

    behaviour('an unknown name is NotFound', async ({ store }) => {
      await refused(store.update({ name: 'nothing', labels: {} }), 'NotFound');
    });
  });

  describe(`${store}: usage`, () => {
    behaviour('counts blocks, and a file with several hard links once', async ({ store, mounted }) => {
      await mounted(await store.prepare('key', ''), async (directory) => {
        await writeFile(join(directory, 'file'), Buffer.alloc(100_000, 1));
        await mkdir(join(directory, 'a'));
        await link(join(directory, 'file'), join(directory, 'a/again'));
        let blocks = 0;
        for (const name of ['', 'file', 'a']) blocks += (await lstat(join(directory, name))).blocks;
        assert.deepEqual(await store.usage('key'), { bytes: blocks * 512, inodes: 3 });
      });
    });

    behaviour('of an active snapshot is measured in each call', async ({ store, mounted }) => {
      await mounted(await store.prepare('key', ''), async (directory) => {
        assert.equal((await store.usage('key')).inodes, 1);
        await writeFile(join(directory, 'file'), '');
        assert.equal((await store.usage('key')).inodes, 2);
      });
    });

    behaviour('of a committed snapshot is measured, whatever its writer counted', async ({ store, mounted }) => {
      await mounted(await store.prepare('key', ''), (directory) => writeFile(join(directory, 'file'), 'text'));
      await store.commit('base', 'key', { usage: { bytes: 1 << 30, inodes: 7 } });
      assert.equal((await store.usage('base')).inodes, 2);
    });

    behaviour('of a view is zero', async ({ store, layer }) => {
      await layer('base', '', (directory) => writeFile(join(directory, 'file'), 'text'));
      await store.view('look', 'base');
      assert.deepEqual(await store.usage('look'), { bytes: 0, inodes: 0 });
    });

    behaviour('of an unknown key is NotFound', async ({ store }) => {
      await refused(store.usage('nothing'), 'NotFound');
    });
  });

  describe(`${store}: walk`, () => {
    behaviour('returns all snapshots, sorted', async ({ store, layer }) => {
      await layer('b', '');
      await layer('a', 'b');
      await store.view('c', 'a');
      assert.deepEqual(await names(store), ['a', 'b', 'c']);
      assert.deepEqual((await store.walk())[0], await store.stat('a'));
    });

    behaviour('filters by name, parent, kind and labels at once', async ({ store, layer }) => {
      await layer('base', '');
      await store.prepare('a', 'base', { labels: { x: '1', y: '2' } });
      await store.prepare('b', 'base', { labels: { x: '1', y: '3' } });
      await store.prepare('c', '', { labels: { x: '1' } });
      await store.view('d', 'base', { labels: { x: '1' } });
      assert.deepEqual(await names(store, { name: 'a' }), ['a']);
      assert.deepEqual(await names(store, { parent: 'base' }), ['a', 'b', 'd']);
      assert.deepEqual(await names(store, { parent: '' }), ['base', 'c']);
      assert.deepEqual(await names(store, { kind: 'committed' }), ['base']);
      assert.deepEqual(await names(store, { labels: { x: '1' } }), ['a', 'b', 'c', 'd']);
      assert.deepEqual(await names(store, { labels: { x: '1', y: '3' } }), ['b']);
      assert.deepEqual(await names(store, { labels: { x: '1' }, kind: 'active', parent: 'base' }), ['a', 'b']);
      assert.deepEqual(await names(store, { labels: { x: '2' } }), []);
    });

    behaviour('a label name may contain quotes', async ({ store }) => {
      await store.prepare('key', '', { labels: { 'a"b.c[0]': "it's" } });
      assert.deepEqual(await names(store, { labels: { 'a"b.c[0]': "it's" } }), ['key']);
    });
  });

  describe(`${store}: open and close`, () => {
    behaviour('a store that is opened again has the same snapshots', async ({ store, layer, reopen, mounted }) => {
      await layer('base', '', (directory) => writeFile(join(directory, 'file'), 'text'));
      await store.prepare('key', 'base', { labels: { a: '1' } });
      const before = await store.walk();
      await store.close();
      const again = await reopen();
      assert.deepEqual(await again.walk(), before);
      await mounted(await again.mounts('key'), async (directory) =>
        assert.deepEqual(await readdir(directory), ['file']),
      );
    });

    behaviour('a second close does nothing, and later calls are refused', async ({ store }) => {
      await store.close();
      await store.close();
      await assert.rejects(store.stat('key'), (error) => toUnpackError(error).code === 'SHUTTING_DOWN');
    });
  });
}

const KEY = { kind: 'active', name: 'key', synced: false };

async function names(store: Snapshotter, filter?: Parameters<Snapshotter['walk']>[0]): Promise<string[]> {
  return (await store.walk(filter)).map((info) => info.name);
}
