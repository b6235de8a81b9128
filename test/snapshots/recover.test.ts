import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { backUpDatabase, recoverStore } from '../../src/snapshots/recover.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { type TemporaryStore, withStore } from './temporary-store.ts';

function removeDatabase(root: string): void {
  for (const end of ['', '-wal', '-shm']) rmSync(join(root, `metadata.db${end}`), { force: true });
}

/** What a rebuilt database must have, too. */
async function rows(store: Snapshotter): Promise<unknown[]> {
  return (await store.walk()).map(({ name, kind, parent, labels, broken }) => ({ name, kind, parent, labels, broken }));
}

/** Three layers, an active snapshot with a file, and a view. */
async function fill({ store, layer, root }: TemporaryStore): Promise<void> {
  await layer('base', '');
  await store.update({ name: 'base', labels: { a: '1' } });
  await layer('middle', 'base');
  await layer('top', 'middle');
  await store.prepare('key', 'top', { labels: { b: '2' } });
  writeFileSync(join(root, 'snapshots/4/fs/file'), 'text');
  await store.view('look', 'middle');
}

for (const type of ['overlay', 'native'] as const) {
  const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
    test(sentence, () =>
      withStore(type, async (context) => {
        await fill(context);
        await body(context);
      }),
    );

  describe(`${type} store: recover`, () => {
    behaviour('rebuilds a lost database, with all snapshots, parents and labels', async ({ store, root, reopen }) => {
      const before = await rows(store);
      await store.close();
      removeDatabase(root);
      assert.deepEqual(await recoverStore(root), { whole: 5, broken: 0, foreign: [], earlier: undefined });
      const again = await reopen();
      assert.deepEqual(await rows(again), before);
      assert.equal(await again.cleanup(), 0);
      await again.prepare('another', 'top');
      assert.equal(statSync(join(root, 'metadata.db')).mode & 0o777, 0o600);
    });

    behaviour('brings an older copy up to date, and a copy can be made while the store is open', async (context) => {
      const { store, root, beside, layer, reopen } = context;
      const copy = join(beside, 'copy.db');
      await backUpDatabase(root, copy);
      await layer('newer', 'top');
      await store.remove('look');
      await store.close();
      removeDatabase(root);
      cpSync(copy, join(root, 'metadata.db'));
      await assert.rejects(reopen(), { code: 'STORE_FAILED', message: /is an older copy/ });
      const { whole, broken, earlier } = await recoverStore(root);
      assert.deepEqual([whole, broken, typeof earlier], [5, 0, 'string']);
      const names = (await (await reopen()).walk()).map(({ name }) => name);
      assert.deepEqual(names, ['base', 'key', 'middle', 'newer', 'top']);
      assert.ok(readdirSync(root).some((name) => name.startsWith('metadata.db.before-recover-')));
    });

    behaviour('a lost parent is broken, and foreign directories stay', async ({ store, root, reopen }) => {
      await store.close();
      removeDatabase(root);
      rmSync(join(root, 'snapshots/2'), { recursive: true });
      mkdirSync(join(root, 'snapshots/70/fs'), { recursive: true });
      const { whole, foreign } = await recoverStore(root);
      assert.deepEqual([whole, foreign], [1, [70]]);
      const again = await reopen();
      const broken = Object.fromEntries((await again.walk()).map(({ name, broken }) => [name, broken]));
      assert.deepEqual(broken, { base: undefined, key: 'parent', look: 'parent', middle: 'gone', top: 'parent' });
      assert.equal(await again.cleanup(), 0);
    });

    behaviour('is refused while a process has the store open', async ({ root }) => {
      await assert.rejects(recoverStore(root), { code: 'STORE_FAILED', message: /is in use: stop the workers/ });
    });
  });
}

test('a copy does not replace a file', () =>
  withStore('overlay', async ({ root, beside }) => {
    writeFileSync(join(beside, 'file'), 'text');
    await assert.rejects(backUpDatabase(root, join(beside, 'file')), { message: /exists already/ });
  }));

test('a lost identity file is written again if the database fits the directories', () =>
  withStore('overlay', async (context) => {
    const { store, root, reopen } = context;
    await fill(context);
    const before = await rows(store);
    await store.close();
    rmSync(join(root, 'snapshots/store.json'));
    await assert.rejects(reopen(), { message: /store.json is missing/ });
    await recoverStore(root);
    assert.deepEqual(await rows(await reopen()), before);
  }));

test('nothing is recovered without an identity', () =>
  withStore('overlay', async ({ store, root, layer }) => {
    await layer('base', '');
    await store.close();
    rmSync(join(root, 'snapshots/store.json'));
    removeDatabase(root);
    await assert.rejects(recoverStore(root), { message: /has no store.json/ });
    assert.deepEqual(readdirSync(join(root, 'snapshots')), ['1']);
  }));
