import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import '../support/needs-root.ts';
import { Leases } from '../../src/snapshots/leases.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';
import { startChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';
import { refused, withStore } from './temporary-store.ts';

const OWNER = { worker: 'worker-1', job: 'job-7' };

for (const [where, open] of [
  ['of a command', openSnapshotter],
  ['on a thread of its own', openStoreThread],
] as const) {
  describe(`a lease, in a store ${where}`, () => {
    test('keeps a snapshot from being removed, and the refusal names worker and job', () =>
      withStore(
        'overlay',
        async ({ store, layer, reopen }) => {
          await layer('base', '');
          const other = await reopen();
          const lease = await store.lease(['base', 'later'], OWNER);
          for (const each of [store, other]) {
            await assert.rejects(each.remove('base'), {
              kind: 'FailedPrecondition',
              message: new RegExp(
                `^snapshot base can't be removed: process ${process.pid} on \\S+ \\(worker worker-1, job job-7\\) needs it until its job has ended$`,
              ),
            });
          }
          await lease[Symbol.asyncDispose]();
          await other.remove('base');
        },
        open,
      ));

    test('is also on snapshots that do not exist yet, but not on other names and keys', () =>
      withStore(
        'overlay',
        async ({ store, layer }) => {
          await using _lease = await store.lease(['later', 'key'], OWNER);
          await layer('later', '');
          await layer('other', '');
          await store.prepare('key', '');
          await refused(store.remove('later'), 'FailedPrecondition');
          await store.remove('other');
          await store.remove('key');
        },
        open,
      ));
  });
}

describe('leases', () => {
  test('of another process are seen, with what it needs, and end when it is killed', () =>
    withStore('overlay', async ({ root, store, layer }) => {
      await layer('base', '');
      const script = join(import.meta.dirname, 'hold-lease.ts');
      await using child = startChild(process.execPath, [script, root, 'worker-2', 'job-8', 'base', 'top'], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      assert.ok(child.stdout !== null);
      await once(child.stdout, 'data');
      const [held, ...others] = new Leases(root).held();
      assert.deepEqual(others, []);
      assert.deepEqual(held?.names, new Set(['base', 'top']));
      assert.deepEqual(held?.needs, { bytes: 1000, inodes: 10 });
      assert.equal(held?.holder?.pid, child.pid);
      await assert.rejects(store.remove('base'), { message: /worker worker-2, job job-8/ });
      child.kill('SIGKILL');
      await once(child, 'exit');
      assert.deepEqual(new Leases(root).held(), []);
      assert.equal(readdirSync(join(root, 'leases')).length, 1);
      await store.remove('base');
      new Leases(root).tidy();
      assert.deepEqual(readdirSync(join(root, 'leases')), []);
    }));

  test('are left alone by tidy while they are held, and so is every file that is not theirs', async () => {
    using place = scratch();
    const leases = new Leases(place.path);
    await using lease = await leases.take(['a'], OWNER);
    const directory = join(place.path, 'leases');
    for (const name of ['new-0123', 'lease-4567', 'new-theirs', 'notes.txt']) writeFileSync(join(directory, name), '');
    leases.tidy();
    const left = readdirSync(directory).sort();
    assert.deepEqual(left.slice(1), ['new-theirs', 'notes.txt']);
    assert.match(left[0] ?? '', /^lease-[0-9a-f]{16}$/);
    await lease.update({ bytes: 5, inodes: 1 });
    assert.deepEqual(
      leases.held().map(({ needs }) => needs),
      [{ bytes: 5, inodes: 1 }],
    );
  });

  test('are taken only when no removal is between its look at the leases and its end', async () => {
    using place = scratch();
    const leases = new Leases(place.path);
    const removing = await leases.removing();
    let taken = false;
    const taking = leases.take(['a'], OWNER).then((lease) => {
      taken = true;
      return lease;
    });
    // the lease is there for the next removal, but its owner must not look at the store yet
    while (leases.held().length === 0) await sleep(1);
    await sleep(20);
    assert.equal(taken, false);
    removing[Symbol.dispose]();
    await using _lease = await taking;
  });

  test('whose file is of an unknown form are leases on every snapshot', () =>
    withStore('overlay', async ({ root, store, layer }) => {
      await layer('base', '');
      const lease = await store.lease(['other'], OWNER);
      const [name = ''] = readdirSync(join(root, 'leases'));
      writeFileSync(join(root, 'leases', name), 'a newer version');
      await assert.rejects(store.remove('base'), { message: /another process needs it/ });
      await lease[Symbol.asyncDispose]();
    }));

  test('are refused if the store has disappeared, and do not make it again', async () => {
    using place = scratch();
    const root = join(place.path, 'store');
    mkdirSync(root);
    const leases = new Leases(root);
    rmSync(root, { recursive: true });
    await assert.rejects(leases.take(['a'], OWNER), { code: 'STORE_FAILED', message: /is not there any more/ });
    assert.deepEqual(readdirSync(place.path), []);
  });
});
