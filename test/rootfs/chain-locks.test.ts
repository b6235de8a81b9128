import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { type ChainId, digestOf } from '../../src/oci/digest.ts';
import { ChainLocks } from '../../src/rootfs/chain-locks.ts';
import { ext4, unavailable } from '../support/file-system.ts';
import { scratch } from '../support/scratch.ts';

const CHAIN = digestOf(Buffer.from('a chain')) as string as ChainId;

describe('the lock on a chain ID', () => {
  it('is released even if its file cannot be removed', { skip: unavailable(() => ext4()) }, async () => {
    using disk = ext4();
    const [locks, others] = [new ChainLocks(disk.path), new ChainLocks(disk.path)];
    const directory = join(disk.path, 'locks');
    const lock = await locks.acquire(CHAIN);
    execFileSync('chattr', ['+i', directory]);
    try {
      assert.equal(await others.tryAcquire(CHAIN), undefined);
      lock[Symbol.dispose]();
      assert.equal(readdirSync(directory).length, 1);
      const next = await others.tryAcquire(CHAIN);
      assert.ok(next);
      assert.equal(await locks.tryAcquire(CHAIN), undefined, 'the old file is locked again');
      execFileSync('chattr', ['-i', directory]);
      next[Symbol.dispose]();
      assert.deepEqual(readdirSync(directory), []);
    } finally {
      execFileSync('chattr', ['-i', directory]);
    }
  });

  it('leaves a file if its holder is killed, which tidy removes; held locks and other files stay', async () => {
    using place = scratch();
    const directory = join(place.path, 'locks');
    const [locks, others] = [new ChainLocks(place.path), new ChainLocks(place.path)];
    const held = await locks.acquire(CHAIN);
    const left = digestOf(Buffer.from('left')).replace(':', '-');
    for (const name of [left, 'theirs']) writeFileSync(join(directory, name), '');
    mkdirSync(
      join(
        directory,
        left.replace(/.$/, (last) => (last === '0' ? '1' : '0')),
      ),
    );
    await others.tidy();
    assert.deepEqual(readdirSync(directory).length, 3);
    assert.equal(readdirSync(directory).includes(left), false);
    assert.equal(await others.tryAcquire(CHAIN), undefined);
    held[Symbol.dispose]();
  });

  it('is STORE_FAILED if the store was removed, and does not create the store again', async () => {
    using place = scratch();
    const root = join(place.path, 'store');
    mkdirSync(root);
    const locks = new ChainLocks(root);
    using _lock = await locks.acquire(CHAIN);
    rmSync(root, { recursive: true });
    await assert.rejects(locks.acquire(CHAIN), { code: 'STORE_FAILED', message: /is not there any more/ });
    assert.deepEqual(readdirSync(place.path), []);
  });
});
