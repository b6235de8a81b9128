import assert from 'node:assert/strict';
import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { recoverStore } from '../../src/snapshots/recover.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { snapshotterSuite } from './suite.ts';
import {
  changeDatabase,
  directoriesIn,
  identityOf,
  refused,
  type TemporaryStore,
  withStore,
} from './temporary-store.ts';

/** The behaviour of our own stores: both types, on the calling thread and on a separate one. */
export function ownStoreSuite(type: Snapshotter['type'], open = openSnapshotter): void {
  const within = (body: (context: TemporaryStore) => Promise<void>) => withStore(type, body, open);
  const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
    test(sentence, () => within(body));

  snapshotterSuite(`${type} store`, within);

  describe(`${type} store: prepare and view`, () => {
    behaviour('a refused call leaves nothing on disk', async ({ store, root }) => {
      await store.prepare('key', '');
      await Promise.allSettled([store.prepare('key', ''), store.prepare('other', 'nothing')]);
      assert.equal(await store.cleanup(), 0);
      assert.deepEqual(await directoriesIn(root), ['1']);
    });
  });

  describe(`${type} store: viewMounts`, () => {
    behaviour('follows a layer that was made again', async ({ store, root, layer }) => {
      await layer('base', '');
      await layer('top', 'base');
      const before = await store.viewMounts('top');
      assert.deepEqual(await store.viewMounts('top'), before);
      changeDatabase(root, `UPDATE snapshots SET broken = 'gone' WHERE key = 'base'`);
      await layer('base', '');
      const after = await store.viewMounts('top');
      assert.deepEqual(after, await store.view('view', 'top'));
      if (type === 'overlay') assert.notDeepEqual(after, before);
    });

    behaviour('is NotFound for all that cannot have a view', async ({ store, root, layer }) => {
      await layer('base', '');
      await layer('gone', '');
      await store.view('look', 'base');
      assert.equal((await store.viewMounts('gone')).length, 1);
      await store.remove('gone');
      for (const name of ['nothing', 'look', 'gone']) await refused(store.viewMounts(name), 'NotFound');
      changeDatabase(root, `UPDATE snapshots SET broken = 'gone' WHERE key = 'base'`);
      await refused(store.viewMounts('base'), 'NotFound');
    });
  });

  describe(`${type} store: commit`, () => {
    behaviour('records what the writer counted as the size of the snapshot', async ({ store, root, reopen }) => {
      await store.prepare('key', '');
      await store.commit('name', 'key', { usage: { bytes: 8192, inodes: 3 } });
      assert.deepEqual((await store.stat('name')).size, { bytes: 8192, inodes: 3 });
      assert.deepEqual((await store.walk())[0]?.size, { bytes: 8192, inodes: 3 });
      await store.update({ name: 'name', labels: { a: '1' } });
      await store.close();
      for (const end of ['', '-wal', '-shm']) await rm(join(root, `metadata.db${end}`), { force: true });
      await recoverStore(root);
      assert.deepEqual((await (await reopen()).stat('name')).size, { bytes: 8192, inodes: 3 });
    });

    behaviour('does not measure the usage, which a call of usage does', async ({ store, layer, root }) => {
      await layer('name', '');
      await writeFile(join(root, 'snapshots/1/fs/after the commit'), '');
      assert.equal((await store.usage('name')).inodes, 2);
    });
  });

  describe(`${type} store: remove`, () => {
    behaviour('the directory is renamed before remove returns', async ({ store, root }) => {
      await store.prepare('key', '');
      await store.remove('key');
      assert.equal((await directoriesIn(root)).includes('1'), false);
    });

    behaviour('the key can be used again, the number is never reused', async ({ store, root }) => {
      await store.prepare('key', '');
      await store.remove('key');
      await store.prepare('key', '');
      await store.cleanup();
      assert.deepEqual(await directoriesIn(root), ['2']);
    });
  });

  describe(`${type} store: cleanup`, () => {
    behaviour(
      'removes what crashes left, and nothing that it does not know',
      async ({ store, layer, root, mounted }) => {
        await layer('base', '', (directory) => writeFile(join(directory, 'file'), 'text'));
        await store.prepare('key', 'base');
        await store.prepare('crashed', 'base');
        changeDatabase(root, `DELETE FROM snapshots WHERE key = 'crashed'`);
        for (const stray of ['new-dead/fs', 'rm-7-left/fs/a/b', '99/fs', 'theirs'])
          await mkdir(join(root, 'snapshots', stray), { recursive: true });
        assert.equal(await store.cleanup(), 3);
        assert.deepEqual(await directoriesIn(root), ['1', '2', '99', 'theirs']);
        await mounted(await store.mounts('key'), async (directory) => {
          assert.deepEqual(await readdir(directory), ['file']);
        });
        assert.equal(await store.cleanup(), 0);
      },
    );

    behaviour('the number of a foreign directory is not given', async ({ store, reopen, root }) => {
      await store.prepare('one', '');
      await mkdir(join(root, 'snapshots/2/fs/theirs'), { recursive: true });
      await assert.rejects(store.prepare('two', ''), { code: 'STORE_FAILED', message: /belongs to no snapshot/ });
      await (await reopen()).prepare('two', '');
      assert.deepEqual(await directoriesIn(root), ['1', '2', '3']);
      assert.deepEqual(await readdir(join(root, 'snapshots/2/fs')), ['theirs']);
    });

    behaviour('a number that is given again after a crash gets a new directory', async ({ store, root, mounted }) => {
      await mkdir(join(root, 'snapshots/1/fs/left'), { recursive: true });
      await symlink(identityOf(root), join(root, 'snapshots/1/store'));
      await mounted(await store.prepare('key', ''), async (directory) =>
        assert.deepEqual(await readdir(directory), []),
      );
      await store.cleanup();
      assert.deepEqual(await directoriesIn(root), ['1']);
    });
  });

  describe(`${type} store: open and close`, () => {
    behaviour('closing waits for the deletions of remove', async ({ store, layer, root }) => {
      await layer('base', '', async (directory) => {
        for (let index = 0; index < 200; index += 1) await writeFile(join(directory, `${index}`), '');
      });
      await store.remove('base');
      await store.close();
      assert.deepEqual(await directoriesIn(root), []);
    });

    behaviour(
      'an active snapshot whose directory was lost in a power cut is removed',
      async ({ store, root, reopen }) => {
        await store.prepare('key', '');
        await store.close();
        await rm(join(root, 'snapshots/1'), { recursive: true });
        assert.deepEqual(await (await reopen()).walk(), []);
      },
    );
  });
}
