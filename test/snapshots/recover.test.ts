import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { openSnapshotter, openToRead } from '../../src/snapshots/open.ts';
import { backUpDatabase, recoverStore } from '../../src/snapshots/recover.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { changeDatabase, type TemporaryStore, withStore } from './temporary-store.ts';

/** Bytes of a page of SQLite, which is the unit of its checks; and a page without sense. */
const PAGE = 4096;
const GARBAGE = Buffer.alloc(PAGE, 0xa5);

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
      assert.deepEqual(await recoverStore(root), {
        whole: 5,
        broken: 0,
        foreign: [],
        images: undefined,
        earlier: undefined,
      });
      const again = await reopen();
      assert.deepEqual(await rows(again), before);
      assert.equal(await again.cleanup(), 0);
      await again.prepare('another', 'top');
      assert.equal(statSync(join(root, 'metadata.db')).mode & 0o777, 0o600);
    });

    behaviour('brings an older copy up to date, and a copy can be made while the store is open', async (context) => {
      const { store, root, beside, layer, reopen } = context;
      const copy = join(beside, 'copy.db');
      const recorder = await openSnapshotter({ root, type, durable: false });
      const image = { reference: 'app', platform: '', chainId: 'top', manifestDigest: 'm', source: 'here' };
      await recorder.recordImage(image, new Map([['m', Buffer.from('manifest')]]));
      await recorder.pinImage('app', undefined, true);
      await recorder.close();
      await backUpDatabase(root, copy);
      await layer('newer', 'top');
      await store.remove('look');
      await store.close();
      removeDatabase(root);
      cpSync(copy, join(root, 'metadata.db'));
      await assert.rejects(reopen(), { code: 'STORE_FAILED', message: /is an older copy/ });
      const { whole, broken, images, earlier } = await recoverStore(root);
      assert.deepEqual([whole, broken, images, typeof earlier], [5, 0, 1, 'string']);
      const names = (await (await reopen()).walk()).map(({ name }) => name);
      const reader = await openToRead({ root, type });
      const kept = (await reader.images()).map(({ reference, pinned, chainId }) => [reference, pinned, chainId]);
      assert.deepEqual(kept, [['app', true, 'top']]);
      assert.equal(String(Buffer.from((await reader.document('m')) ?? [])), 'manifest');
      await reader.close();
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

    behaviour('rebuilds a damaged database, whichever page is damaged', async ({ store, root, beside, reopen }) => {
      const before = await rows(store);
      await store.close();
      const file = join(root, 'metadata.db');
      const whole = readFileSync(file);
      const sound = join(beside, 'sound');
      cpSync(root, sound, { recursive: true, verbatimSymlinks: true });
      let refusals = 0;
      for (let page = 0; page < whole.length / PAGE; page++) {
        rmSync(root, { recursive: true });
        cpSync(sound, root, { recursive: true, verbatimSymlinks: true });
        writeFileSync(
          file,
          Buffer.concat([whole.subarray(0, page * PAGE), GARBAGE, whole.subarray((page + 1) * PAGE)]),
        );
        // a store opens if the page is not needed for that
        const opened = await reopen().catch((error: { code?: unknown; message: string }) => {
          assert.equal(error.code, 'STORE_FAILED');
          assert.match(error.message, /metadata\.db: it is .*unpackd snapshots recover/, `page ${page}`);
          refusals++;
        });
        await opened?.close();
        const { broken, foreign } = await recoverStore(root);
        assert.deepEqual([broken, foreign], [0, []], `page ${page}`);
        const again = await reopen();
        assert.deepEqual(await rows(again), before, `page ${page}`);
        assert.equal(await again.cleanup(), 0);
        await again.close();
      }
      assert.ok(refusals > 2, `${refusals} refusals`);
    });

    behaviour('rebuilds a database that is cut off', async ({ store, root, reopen }) => {
      const before = await rows(store);
      await store.close();
      const file = join(root, 'metadata.db');
      truncateSync(file, statSync(file).size / 2);
      await assert.rejects(reopen(), { code: 'STORE_FAILED', message: /it is damaged: .*unpackd snapshots recover/ });
      await recoverStore(root);
      assert.deepEqual(await rows(await reopen()), before);
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

for (const [state, change, message] of [
  ['lost', (path) => rmSync(path), /store.json is missing/],
  ['damaged', (path) => writeFileSync(path, 'text'), /store.json is damaged: .*unpackd snapshots recover/],
] satisfies [string, (path: string) => void, RegExp][]) {
  test(`a ${state} identity file is written again if the database fits the directories`, () =>
    withStore('overlay', async (context) => {
      const { store, root, reopen } = context;
      await fill(context);
      const before = await rows(store);
      await store.close();
      change(join(root, 'snapshots/store.json'));
      await assert.rejects(reopen(), { message });
      await recoverStore(root);
      assert.deepEqual(await rows(await reopen()), before);
    }));
}

test('nothing is recovered from a damaged database without an identity', () =>
  withStore('overlay', async (context) => {
    const { store, root } = context;
    await fill(context);
    await store.close();
    rmSync(join(root, 'snapshots/store.json'));
    const database = join(root, 'metadata.db');
    for (const damaged of [GARBAGE, Buffer.concat([readFileSync(database).subarray(0, PAGE), GARBAGE])]) {
      writeFileSync(database, damaged);
      await assert.rejects(recoverStore(root), { code: 'STORE_FAILED', message: /has no store.json/ });
      assert.deepEqual(readFileSync(database), damaged);
    }
  }));

test('a database of a newer version or of another program is not replaced', () =>
  withStore('overlay', async ({ store, root, layer }) => {
    await layer('base', '');
    await store.close();
    for (const [pragma, message] of [
      ['user_version', /has version 99 of the schema/],
      ['application_id', /is another program's database/],
    ] as const) {
      changeDatabase(root, `PRAGMA ${pragma} = 99`);
      await assert.rejects(recoverStore(root), { code: 'STORE_FAILED', message });
      assert.ok(readdirSync(root).every((name) => !name.includes('recover')));
    }
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
