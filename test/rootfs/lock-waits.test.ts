import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ChainId, digestOf } from '../../src/oci/digest.ts';
import { ChainLocks } from '../../src/rootfs/chain-locks.ts';
import { holderText, type LockWait, LockWaits, lockWaitText } from '../../src/rootfs/lock-waits.ts';
import { startChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';

const chain = (name: string): ChainId => digestOf(Buffer.from(name)) as string as ChainId;
const [A, B] = [chain('a'), chain('b')];
const PATIENCE = 200;

/** A lock that another process holds until the object is disposed of. */
async function heldByAnother(root: string, chainId: ChainId): Promise<AsyncDisposable> {
  mkdirSync(join(root, 'locks'), { recursive: true });
  const path = join(root, 'locks', chainId.replace(':', '-'));
  writeFileSync(path, holderText({ worker: 'the-other', job: 'its-job' }));
  // flock takes the lock and executes sleep, which holds it until it is killed
  const child = startChild('flock', ['-x', '--no-fork', path, 'sleep', '600'], { stdio: 'ignore' });
  const locks = new ChainLocks(root);
  await until(() => locks.heldElsewhere(chainId) !== undefined);
  return child;
}

/** Waits for a lock until `onBlocked` is called. */
function waiter(locks: ChainLocks, chainId: ChainId): { blocked: LockWait[]; waits: LockWaits; stop: AbortController } {
  const blocked: LockWait[] = [];
  const waits = new LockWaits({ patience: PATIENCE, onBlocked: (wait) => blocked.push(wait) });
  const stop = new AbortController();
  locks.acquire(chainId, stop.signal, waits).catch(() => {});
  return { blocked, waits, stop };
}

const until = async (condition: () => boolean): Promise<void> => {
  for (const end = Date.now() + 60_000; !condition(); ) {
    assert.ok(Date.now() < end, `it did not become true within 60 s: ${condition}`);
    await sleep(10);
  }
};

describe('a wait for a lock', () => {
  it('finds the holder in the lock file', async () => {
    using place = scratch();
    const locks = new ChainLocks(place.path);
    const waits = new LockWaits({ owner: { worker: 'w', job: 'j' } });
    const lock = await locks.acquire(A, undefined, waits);
    const [name = ''] = readdirSync(join(place.path, 'locks'));
    const { pid, worker, job, since } = JSON.parse(readFileSync(join(place.path, 'locks', name), 'utf8'));
    assert.deepEqual([pid, worker, job], [process.pid, 'w', 'j']);
    assert.ok(!Number.isNaN(Date.parse(since)));
    assert.equal(locks.heldElsewhere(A), undefined, 'this object holds it');
    lock[Symbol.dispose]();
    assert.deepEqual(readdirSync(join(place.path, 'locks')), []);
    assert.equal(locks.heldElsewhere(A), undefined);
  });

  it('is blocked by another process, and reports its name once', async () => {
    using place = scratch();
    await using _other = await heldByAnother(place.path, A);
    const locks = new ChainLocks(place.path);
    const { blocked, stop } = waiter(locks, A);
    await until(() => blocked.length > 0);
    await sleep(2 * PATIENCE);
    stop.abort(new Error('enough'));
    assert.equal(blocked.length, 1);
    const [wait] = blocked;
    assert.ok(wait !== undefined);
    assert.match(lockWaitText(wait), /which process \d+ on \S+ \(worker the-other, job its-job\) has locked since /);
    assert.deepEqual(locks.heldElsewhere(A)?.holder?.worker, 'the-other');
  });

  it('is not blocked by a call of the same process', async () => {
    using place = scratch();
    const locks = new ChainLocks(place.path);
    using _lock = await locks.acquire(A);
    const { blocked, waits, stop } = waiter(locks, A);
    await sleep(3 * PATIENCE);
    stop.abort(new Error('enough'));
    assert.deepEqual([blocked, waits.blockedBy], [[], undefined]);
  });

  it('is blocked by a call of the same process that another process blocks', async () => {
    using place = scratch();
    await using _other = await heldByAnother(place.path, B);
    const locks = new ChainLocks(place.path);
    const first = new LockWaits({ patience: PATIENCE });
    using _lock = await locks.acquire(A, undefined, first);
    const stopFirst = new AbortController();
    locks.acquire(B, stopFirst.signal, first).catch(() => {});
    const { blocked, stop } = waiter(locks, A);
    await until(() => blocked.length > 0);
    for (const each of [stop, stopFirst]) each.abort(new Error('enough'));
    assert.deepEqual([blocked[0]?.chainId, blocked[0]?.holder?.worker], [B, 'the-other']);
  });

  it('is not blocked while the call writes a layer', async () => {
    using place = scratch();
    await using _other = await heldByAnother(place.path, A);
    const locks = new ChainLocks(place.path);
    const { blocked, waits, stop } = waiter(locks, A);
    await waits.writing(() => sleep(3 * PATIENCE));
    assert.deepEqual(blocked, []);
    await until(() => blocked.length > 0);
    stop.abort(new Error('enough'));
  });

  it('fails with the path if a directory or link is in the place of the lock file', async () => {
    using place = scratch();
    const locks = new ChainLocks(place.path);
    mkdirSync(join(place.path, 'locks', A.replace(':', '-')), { recursive: true });
    symlinkSync('/etc/passwd', join(place.path, 'locks', B.replace(':', '-')));
    for (const chainId of [A, B]) {
      assert.equal(locks.heldElsewhere(chainId), undefined);
      await assert.rejects(locks.acquire(chainId), { code: 'STORE_FAILED', message: /is not a lock file .*remove it/ });
    }
  });
});
