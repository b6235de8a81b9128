import assert from 'node:assert/strict';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import '../support/needs-root.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';
import { startChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';
import { ownStoreSuite } from './own-suite.ts';
import { type TemporaryStore, withStore } from './temporary-store.ts';

ownStoreSuite('overlay', openStoreThread);
ownStoreSuite('native', openStoreThread);

const THREAD = join(import.meta.dirname, '../../src/snapshots/store-thread.ts');
const threads: Worker[] = [];
const remember = (worker: Worker) => void threads.push(worker);
const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
  test(sentence, () => withStore('overlay', body, openStoreThread));

describe('a store on a thread of its own', () => {
  beforeEach(() => void process.on('worker', remember));
  afterEach(() => {
    process.off('worker', remember);
    threads.length = 0;
  });

  behaviour(
    'fails its pending calls if the thread dies, and starts a new thread for the next call',
    async (context) => {
      const { store, layer } = context;
      await layer('base', '');
      await store.prepare('key', '');
      await nextTurn(); // Node tells of new threads in the turn after
      threads[0]?.postMessage(null); // nothing that it knows: it dies of it
      await assert.rejects(Promise.all([store.walk(), store.commit('name', 'key')]), {
        code: 'STORE_FAILED',
        message: /the thread of the store .*root died/,
      });
      assert.equal((await store.stat('base')).kind, 'committed');
      assert.equal(await store.has('base'), true);
      await nextTurn();
      assert.equal(threads.length, 2);
    },
  );

  behaviour('completes its calls before it closes', async ({ store, reopen }) => {
    const prepared = store.prepare('key', '').then(
      () => ['key'],
      () => [],
    );
    await store.close();
    const again = await reopen();
    assert.deepEqual(await again.keys('k'), await prepared);
  });

  behaviour('fails to open with the error of the store', async ({ store, root }) => {
    await store.close();
    await assert.rejects(openStoreThread({ root, type: 'native', durable: false }), {
      code: 'STORE_FAILED',
      message: /made as overlay/,
    });
  });

  test('keeps the error codes of the disk and of SQLite', async () => {
    const causes = async (root: string) => {
      const error: unknown = await openStoreThread({ root, type: 'overlay', durable: false }).catch(
        (thrown: unknown) => thrown,
      );
      const codes: unknown[] = [];
      for (let cause = error; cause instanceof Error; cause = cause.cause) {
        codes.push('errcode' in cause ? cause.errcode : 'code' in cause ? cause.code : cause.name);
      }
      return codes;
    };
    using place = scratch();
    writeFileSync(join(place.path, 'file'), '');
    assert.deepEqual(await causes(join(place.path, 'file/root')), ['STORE_FAILED', 'ENOTDIR']);
    mkdirSync(join(place.path, 'root/metadata.db'), { recursive: true });
    mkdirSync(join(place.path, 'root/snapshots'));
    assert.deepEqual(await causes(join(place.path, 'root')), ['STORE_FAILED', 14]);
  });

  behaviour('makes no new store if the thread has died and the disk has disappeared', async ({ store, root }) => {
    await store.prepare('key', '');
    await nextTurn();
    threads[0]?.postMessage(null);
    await assert.rejects(store.walk(), { code: 'STORE_FAILED' });
    await rm(root, { recursive: true });
    await assert.rejects(store.prepare('other', ''), { code: 'STORE_FAILED', message: /is its disk not mounted/ });
    assert.equal(existsSync(root), false, 'no new store is made in its place');
  });

  test('does not keep an idle process alive', async () => {
    using place = scratch();
    const program = `import(${JSON.stringify(THREAD)}).then(async ({ openStoreThread }) => {
      const store = await openStoreThread({ root: ${JSON.stringify(join(place.path, 'root'))}, type: 'overlay' });
      await store.prepare('key', '');
      console.log(await store.keys('k'));
    })`;
    await using child = startChild(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    assert.ok(child.stdout);
    assert.match(await text(child.stdout), /'key'/);
  });
});
