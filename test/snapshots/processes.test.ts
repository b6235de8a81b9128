import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { access, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { toUnpackError } from '../../src/errors.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { Random } from '../fuzz/random.ts';
import { startChild } from '../support/child.ts';
import { directoriesIn, type TemporaryStore, withStore } from './temporary-store.ts';

/** Seed of the moments when processes are killed. Repeat a run: `KILL_SEED=N npm test test/snapshots/processes.test.ts`. */
const SEED = Number(process.env.KILL_SEED ?? Math.floor(Math.random() * 2 ** 31));
console.log(`KILL_SEED=${SEED}`);
const HAMMER = join(import.meta.dirname, 'hammer.ts');

for (const type of ['overlay', 'native'] as const) {
  const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
    test(sentence, () => withStore(type, body));

  describe(`${type} store: several processes`, () => {
    behaviour('can use it at once, and it stays consistent', async (context) => {
      const hammers = [1, 2, 3, 4].map((seed) => hammer(context.root, type, seed, 60));
      const ends = await Promise.all(hammers.map(ended));
      assert.deepEqual(ends, [0, 0, 0, 0]);
      assert.deepEqual(
        (await context.store.walk()).filter(({ kind }) => kind !== 'committed'),
        [],
      );
      await checkStore(context);
    });

    behaviour('that are killed at any moment leave a consistent store that opens', async (context) => {
      const random = new Random(SEED);
      for (let seed = 1; seed <= 8; seed += 1) {
        const hammers = [hammer(context.root, type, seed, 100_000), hammer(context.root, type, seed + 1000, 100_000)];
        await Promise.all(hammers.map(opened));
        await sleep(random.below(60));
        for (const each of hammers) each.kill('SIGKILL');
        await Promise.all(hammers.map(ended));
        await checkStore({ ...context, store: await context.reopen() });
      }
    });
  });
}

describe('a store that another process has locked', () => {
  test('delays a call without blocking the event loop', () =>
    withStore('overlay', async ({ store, root }) => {
      const other = new DatabaseSync(join(root, 'metadata.db'));
      other.exec('BEGIN IMMEDIATE');
      let isPrepared = false;
      const preparing = store.prepare('key', '').then(() => {
        isPrepared = true;
      });
      await sleep(300);
      assert.deepEqual(await store.walk(), [], 'reading goes on meanwhile');
      assert.ok(!isPrepared, 'it waits');
      other.exec('ROLLBACK');
      other.close();
      await preparing;
    }));

  test('fails a call with a typed error after the timeout', () =>
    withStore('overlay', async ({ root, reopen }) => {
      const store = await reopen({ lockTimeout: 200 });
      const other = new DatabaseSync(join(root, 'metadata.db'));
      other.exec('BEGIN IMMEDIATE');
      await assert.rejects(store.prepare('key', ''), (error) => toUnpackError(error).code === 'STORE_FAILED');
      other.close();
      assert.equal(await store.cleanup(), 0);
    }));
});

/** Maximum milliseconds for a copy of a few files, on a busy machine. */
const COPY_LIMIT = 120_000;

/** Checks that every snapshot has its directory, every committed one its file, and a cleanup leaves nothing else. */
async function checkStore({ store, root }: Pick<TemporaryStore, 'store' | 'root'>): Promise<void> {
  // a copy may outlive the process that was killed, and holds its directory until it ends
  const end = performance.now() + COPY_LIMIT;
  do {
    await store.cleanup();
    if (!(await directoriesIn(root)).some((name) => name.startsWith('new-'))) break;
    await sleep(20);
  } while (performance.now() < end);
  const rows = new DatabaseSync(join(root, 'metadata.db'), { readOnly: true });
  const snapshots = rows.prepare('SELECT id, key, kind FROM snapshots ORDER BY id').all();
  assert.deepEqual(rows.prepare('PRAGMA integrity_check').all(), [
    Object.assign(Object.create(null), { integrity_check: 'ok' }),
  ]);
  assert.deepEqual(rows.prepare('PRAGMA foreign_key_check').all(), []);
  rows.close();
  const owned = snapshots.map(({ id }) => String(id)).sort();
  assert.deepEqual(await directoriesIn(root), owned);
  for (const { id, kind } of snapshots) {
    const inside = await readdir(join(root, 'snapshots', String(id)));
    const work = kind === 'active' && store.type === 'overlay' ? ['work'] : [];
    const isRecord = (name: string) => /^(active|view|committed)\.json(\.next)?$/.test(name);
    assert.ok(inside.includes(`${kind}.json`), `it has a record: ${inside}`);
    assert.deepEqual(inside.filter((name) => !isRecord(name)).sort(), ['fs', 'store', ...work]);
    if (kind === 'committed') await access(join(root, 'snapshots', String(id), 'fs/file'));
  }
  for (const { name, parent } of await store.walk())
    if (parent !== '') await store.stat(parent).catch(() => assert.fail(name));
}

function hammer(root: string, type: Snapshotter['type'], seed: number, rounds: number): ChildProcess {
  const child = startChild(process.execPath, [HAMMER, root, type, String(seed), String(rounds)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return child;
}

async function opened(child: ChildProcess): Promise<void> {
  assert.ok(child.stdout !== null);
  await once(child.stdout, 'data');
}

async function ended(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return child.exitCode;
}
