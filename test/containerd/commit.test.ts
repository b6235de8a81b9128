import assert from 'node:assert/strict';
import { lstatSync, rmSync } from 'node:fs';
import { chmod, chown, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import '../support/needs-root.ts';
import { toUnpackError } from '../../src/errors.ts';
import { connectContainerd } from '../../src/grpc/client.ts';
import type { ContainerdStore } from '../../src/snapshots/containerd/store.ts';
import { refused, type TemporaryStore, unlessRefused, writableTree } from '../snapshots/temporary-store.ts';
import { eventually } from '../support/eventually.ts';
import { tmpfs, unavailable } from '../support/file-system.ts';
import { snapshotNames, wireSnapshots } from './collect.ts';
import { Daemon, isSince, PROGRAMS, skipWithoutContainerd } from './daemon.ts';
import { withContainerdStore } from './temporary-store.ts';

for (const program of PROGRAMS) {
  describe(`commits in containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let daemon: Daemon;
    before(async () => {
      daemon = await Daemon.start(program);
    });
    after(() => daemon[Symbol.asyncDispose]());

    const behaviour = (sentence: string, body: (context: TemporaryStore<ContainerdStore>) => Promise<void>) =>
      test(sentence, () => withContainerdStore(daemon, body));

    /** Prepares a layer without a parent, writes a file of its name, and commits it on `parent`. */
    const late = async (store: ContainerdStore, name: string, parent: string): Promise<void> => {
      const tree = writableTree(await store.prepare(`late ${name}`, ''));
      await writeFile(join(tree, name), name);
      await store.commit(name, `late ${name}`, { parent });
    };

    behaviour('a layer that was written first stands on its parent, with all below it', async (context) => {
      const { store, layer, mounted } = context;
      await layer('base', '', (directory) => writeFile(join(directory, 'base'), ''));
      await late(store, 'middle', 'base');
      await late(store, 'top', 'middle');
      assert.deepEqual([(await store.stat('middle')).parent, (await store.stat('top')).parent], ['base', 'middle']);
      await mounted(await store.view('look', 'top'), async (directory) => {
        assert.deepEqual((await readdir(directory)).sort(), ['base', 'middle', 'top']);
      });
      await store.remove('look');
      assert.deepEqual(
        (await store.walk()).map(({ name }) => name),
        ['base', 'middle', 'top'],
      );
    });

    behaviour('a caller cannot set the labels that only this store sets', async ({ store }) => {
      const labels = { 'unpackd.dev/synced': 'true', 'containerd.io/gc.root': 'now', kept: 'yes' };
      await store.prepare('key', '', { labels });
      await store.commit('name', 'key', { labels });
      const { labels: found, synced } = await store.stat('name');
      assert.deepEqual([found, synced], [{ kept: 'yes' }, false]);
      await store.update({ name: 'name', labels }, ['labels']);
      assert.equal((await store.stat('name')).synced, false);
    });

    behaviour("a caller cannot set any label that containerd's collection reads", async ({ store }) => {
      const reference = 'containerd.io/gc.ref.snapshot.overlayfs/other';
      const labels = { [reference]: 'other', 'containerd.io/gc.bref.content': 'other', kept: 'yes' };
      await store.prepare('key', '', { labels });
      await store.commit('name', 'key', { labels });
      await store.update({ name: 'name', labels }, ['labels']);
      const request = { snapshotter: store.place.snapshotter, key: 'name' };
      const { info } = await store.client.snapshots.Stat(request);
      assert.deepEqual(Object.keys(info?.labels ?? {}).sort(), ['containerd.io/gc.root', 'kept']);
    });

    test('the same by an exchange, also where containerd can rebase', () =>
      withContainerdStore(
        daemon,
        async ({ store, layer, mounted }) => {
          await layer('base', '', (directory) => chown(directory, 1234, 5678));
          await late(store, 'middle', 'base');
          await late(store, 'top', 'middle');
          await mounted(await store.view('look', 'top'), async (directory) => {
            assert.deepEqual((await readdir(directory)).sort(), ['middle', 'top']);
            assert.equal(lstatSync(directory).uid, 1234);
          });
        },
        false,
      ));

    const ignoring = isSince(program.version, '2.2') && 'this containerd can rebase';
    test('a snapshotter that ignores the parent is noticed, and its layer does not stay', { skip: ignoring }, () =>
      withContainerdStore(
        daemon,
        async ({ store, layer }) => {
          await layer('base', '');
          await assert.rejects(late(store, 'top', 'base'), (error) => toUnpackError(error).code === 'STORE_FAILED');
          await assert.rejects(late(store, 'top', 'base'), /has committed top on no parent instead of base: set/);
          assert.equal(await store.has('top'), false);
        },
        true,
      ),
    );

    test('a full disk is STORE_FULL, and works again when space is free', {
      skip: unavailable(() => tmpfs('size=64m,nr_inodes=2000')),
    }, async () => {
      using disk = tmpfs('size=64m,nr_inodes=2000');
      await using full = await Daemon.start(program, { below: disk.path });
      await withContainerdStore(full, async ({ store, layer }) => {
        await layer('base', '');
        const filler = join(disk.path, 'filler');
        await mkdir(filler);
        const fill = async () => {
          for (let index = 0; ; index++) await writeFile(join(filler, `${index}`), '');
        };
        await assert.rejects(fill, { code: 'ENOSPC' });
        const prepare = () => store.prepare('key', 'base');
        await assert.rejects(prepare, (error) => toUnpackError(error).code === 'STORE_FULL');
        await assert.rejects(
          prepare,
          /no space left on device; on the disk of its root, free space .*: unpackd images rm, ctr images rm, crictl rmi --prune\)$/,
        );
        rmSync(filler, { recursive: true });
        await prepare();
      });
    });

    behaviour('its root keeps its mode and gets the owner of the parent’s root', async ({ store, layer, mounted }) => {
      await layer('base', '', (directory) => chown(directory, 1234, 5678));
      const tree = writableTree(await store.prepare('key', ''));
      await chmod(tree, 0o700);
      await store.commit('name', 'key', { parent: 'base' });
      await mounted(await store.view('look', 'name'), (directory) => {
        const { uid, gid, mode } = lstatSync(directory);
        assert.deepEqual([uid, gid, mode & 0o7777], [1234, 5678, 0o700]);
      });
    });

    behaviour('the mounts that a commit has noted are those of a view', async ({ store, layer, reopen }) => {
      await layer('base', '');
      await late(store, 'middle', 'base');
      await layer('top', 'middle');
      const other = await reopen();
      for (const name of ['base', 'middle', 'top']) {
        const mounts = await store.viewMounts(name);
        assert.equal(await store.viewMounts(name), mounts, 'the same array each time');
        assert.deepEqual(await other.viewMounts(name), mounts);
        assert.deepEqual(await store.view(`look ${name}`, name), mounts);
      }
    });

    behaviour('follows a layer that was removed and made again', async ({ store, layer }) => {
      await layer('base', '');
      const before = await store.viewMounts('base');
      await store.remove('base');
      await layer('base', '');
      assert.notDeepEqual(await store.viewMounts('base'), before);
    });

    behaviour('if the name is taken, the files stay where they were written', async ({ store, layer }) => {
      await layer('base', '');
      await layer('name', 'base');
      const tree = writableTree(await store.prepare('key', ''));
      await writeFile(join(tree, 'file'), '');
      await refused(store.commit('name', 'key', { parent: 'base' }), 'AlreadyExists');
      assert.deepEqual(await readdir(tree), ['file']);
      assert.deepEqual(await store.keys(store.extraction), []);
      await store.commit('other', 'key', { parent: 'base' });
      assert.equal((await store.stat('other')).parent, 'base');
    });

    behaviour('a missing parent is NotFound, and the layer can be committed later', async ({ store, layer }) => {
      const tree = writableTree(await store.prepare('key', ''));
      await writeFile(join(tree, 'file'), '');
      await refused(store.commit('name', 'key', { parent: 'base' }), 'NotFound');
      await layer('base', '');
      await store.commit('name', 'key', { parent: 'base' });
      assert.equal((await store.stat('name')).parent, 'base');
    });

    behaviour(
      'one of several commits of one layer succeeds, and the others leave nothing',
      async ({ store, layer }) => {
        await layer('base', '');
        const keys = Array.from({ length: 8 }, (_, index) => `key-${index}`);
        for (const key of keys) {
          const tree = writableTree(await store.prepare(key, ''));
          await mkdir(join(tree, key));
        }
        const commit = (key: string) => store.commit('name', key, { parent: 'base' }).then(() => true);
        const done = await Promise.all(keys.map((key) => unlessRefused(commit(key))));
        assert.equal(done.filter((each) => each === true).length, 1);
        assert.equal((await store.walk({ kind: 'active' })).length, 7);
        for (const { name } of await store.walk({ kind: 'active' })) await store.remove(name);
      },
    );

    behaviour('a layer that was synced has a label, one that was not gets it later', async ({ store, layer }) => {
      await layer('synced', '');
      await store.prepare('key', '');
      await store.commit('unsynced', 'key', { parent: 'synced' });
      assert.deepEqual([(await store.stat('synced')).synced, (await store.stat('unsynced')).synced], [true, false]);
      assert.deepEqual(await store.unsynced('synced'), { own: 0, others: 0 });
      assert.deepEqual(await store.unsynced('unsynced'), { own: 1, others: 0 });
      await store.sync();
      assert.equal((await store.stat('unsynced')).synced, true);
      assert.deepEqual(await store.unsynced('unsynced'), { own: 0, others: 0 });
    });

    behaviour('a layer of another process is counted, and synced where that is demanded', async ({ store, reopen }) => {
      await store.prepare('key', '');
      await store.commit('theirs', 'key');
      assert.deepEqual(await (await reopen()).unsynced('theirs'), { own: 0, others: 1 });
      assert.deepEqual(await (await reopen({ durable: true })).unsynced('theirs'), { own: 0, others: 0 });
    });

    test('without containerd each call is STORE_FAILED, and works again after its start', () =>
      withContainerdStore(daemon, async ({ store, layer }) => {
        await layer('base', '');
        const others = connectContainerd(store.place);
        await daemon.kill();
        for (const call of [() => store.has('base'), () => store.prepare('key', 'base'), () => store.lease([], {})]) {
          await assert.rejects(call, (error) => toUnpackError(error).code === 'STORE_FAILED');
          await assert.rejects(call, /does not answer.*start it, or set UNPACK_CONTAINERD_SOCKET/);
        }
        await daemon.start();
        await eventually('it connects again', () => store.has('base').catch(() => false));
        await store.cleanup();
        assert.deepEqual(await snapshotNames(others), ['base']);
        assert.deepEqual(
          (await wireSnapshots(others)).map(({ kind }) => kind),
          ['COMMITTED'],
        );
        others.close();
      }));
  });
}
