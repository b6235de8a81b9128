import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { recoverStore } from '../../src/snapshots/recover.ts';
import type { CommitOptions, Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';
import { uniqueMountId } from '../../src/system/files.ts';
import { changeDatabase, refused, type TemporaryStore, withStore } from './temporary-store.ts';

const OPEN = { 'on this thread': openSnapshotter, 'on a separate thread': openStoreThread } as const;

async function commit(store: Snapshotter, name: string, parent: string, options: CommitOptions = {}): Promise<void> {
  await store.prepare(`prepare ${name}`, parent);
  await store.commit(name, `prepare ${name}`, options);
}

/** What a process in another mount namespace, which has other mounts, sees: [has, suspect, whether a view can be made]. */
function seenElsewhere(root: string, ...names: readonly string[]): Record<string, readonly boolean[]> {
  const program = join(import.meta.dirname, 'look.ts');
  return JSON.parse(execFileSync('unshare', ['-m', process.execPath, program, root, ...names], { encoding: 'utf8' }));
}

const has =
  (...names: readonly string[]) =>
  (store: Snapshotter) =>
    Promise.all(names.map((name) => store.has(name)));

/** Whether the kernel has unique mount IDs. Without them, only the process that wrote an unsynced snapshot uses it. */
function hasUniqueMounts(): boolean {
  const directory = openSync('/', 'r');
  try {
    return uniqueMountId(directory) !== undefined;
  } finally {
    closeSync(directory);
  }
}

for (const [where, open] of Object.entries(OPEN)) {
  describe(`a snapshot that was committed without a sync, in a store ${where}`, () => {
    const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
      test(sentence, () =>
        withStore(
          'overlay',
          async (context) => {
            await commit(context.store, 'base', '', { synced: true });
            await commit(context.store, 'unsynced', 'base');
            await commit(context.store, 'top', 'unsynced', { synced: true });
            await body(context);
          },
          open,
        ),
      );

    behaviour('is used through the mount that it was written through', async ({ store, reopen }) => {
      for (const each of hasUniqueMounts() ? [store, await reopen()] : [store]) {
        assert.deepEqual(await has('base', 'unsynced', 'top')(each), [true, true, true]);
        const { synced, suspect } = await each.stat('unsynced');
        assert.deepEqual({ synced, suspect }, { synced: false, suspect: undefined });
      }
    });

    behaviour('is not used through another mount, nor is what stands on it', async ({ root }) => {
      assert.deepEqual(seenElsewhere(root, 'base', 'unsynced', 'top'), {
        base: [true, false, true],
        unsynced: [false, true, false],
        top: [false, false, false], // its own files are on disk
      });
    });

    behaviour('is not used by a process that demands synced files', async ({ reopen }) => {
      const store = await reopen({ durable: true });
      assert.deepEqual(await has('base', 'unsynced', 'top')(store), [true, false, false]);
      await refused(store.prepare('key', 'top'), 'NotFound');
      await store.prepare('later', '');
      await refused(store.commit('another', 'later', { parent: 'unsynced' }), 'NotFound');
    });

    behaviour('is replaced by a commit of that name, and what stands on it stays', async ({ store, reopen, root }) => {
      const durable = await reopen({ durable: true });
      const [mount] = await store.view('look', 'unsynced');
      assert.ok(mount);
      await commit(durable, 'unsynced', 'base', { synced: true });
      for (const each of [store, durable]) {
        assert.deepEqual(await has('base', 'unsynced', 'top')(each), [true, true, true]);
        assert.equal((await each.stat('top')).parent, 'unsynced');
      }
      assert.notDeepEqual(await store.mounts('look'), [mount], 'the view shows the new one');
      assert.equal(existsSync(join(root, 'snapshots/2')), false, 'the old one is gone');
      await refused(commit(durable, 'top', 'unsynced', { synced: true }), 'AlreadyExists');
    });

    behaviour('can be used by all after the process that wrote it has synced it', async ({ store, root, reopen }) => {
      await store.sync();
      assert.equal((await store.stat('unsynced')).synced, true);
      assert.deepEqual(await has('unsynced', 'top')(await reopen({ durable: true })), [true, true]);
      assert.deepEqual(seenElsewhere(root, 'unsynced'), { unsynced: [true, false, true] });
      assert.equal(JSON.parse(readFileSync(join(root, 'snapshots/2/committed.json'), 'utf8')).synced, true);
    });

    behaviour('stays unsynced when another process syncs', async ({ store, reopen }) => {
      const other = await reopen();
      await commit(other, 'of the other', '');
      await other.sync();
      assert.equal((await store.stat('of the other')).synced, true);
      assert.equal((await store.stat('unsynced')).synced, false);
    });

    behaviour('keeps its state when its labels change, and when the database is rebuilt', async (context) => {
      const { store, root, reopen } = context;
      await store.update({ name: 'unsynced', labels: { a: '1' } });
      await store.close();
      for (const end of ['', '-wal', '-shm']) rmSync(join(root, `metadata.db${end}`), { force: true });
      await recoverStore(root);
      // the record does not have the mount, so nobody knows through which one it was written
      assert.deepEqual(await has('base', 'unsynced', 'top')(await reopen()), [true, false, false]);
    });
  });
}

test('a snapshot whose row is of an earlier version is used, but not by a process that demands synced files', () =>
  withStore('overlay', async ({ store, layer, root, reopen }) => {
    await layer('old', '');
    changeDatabase(root, 'UPDATE snapshots SET synced = NULL, written_on = NULL');
    assert.equal(await store.has('old'), true);
    assert.equal((await store.stat('old')).suspect, undefined);
    await store.view('look', 'old');
    const durable = await reopen({ durable: true });
    assert.equal(await durable.has('old'), false);
    await commit(durable, 'old', '', { synced: true });
    assert.equal(await durable.has('old'), true);
  }));

test('a snapshot that was begun before this process had opened the store is nobody’s to vouch for', () =>
  withStore('overlay', async ({ store, reopen }) => {
    const [mount] = await store.prepare('key', '');
    writeFileSync(join(mount?.source ?? '', 'file'), 'text');
    const later = await reopen();
    await later.commit('name', 'key');
    assert.equal(await later.has('name'), false, 'a loss may have been reported before it opened the file system');
    await later.sync();
    assert.equal((await store.stat('name')).synced, false);
  }));
