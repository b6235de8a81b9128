import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { StoreSync } from '../../src/rootfs/durability.ts';
import { brittleExt4, unavailable, writeTooMuch } from '../support/file-system.ts';

const LOST = { code: 'STORE_FAILED', message: /not all writes have reached the disk .*dmesg/ };

describe('a disk that loses writes', { skip: unavailable(() => brittleExt4()) }, () => {
  it('fails every layer that was being written at that time, in all processes', async () => {
    using disk = brittleExt4();
    using one = new StoreSync(disk.path);
    using other = new StoreSync(disk.path); // as in another worker
    const [first, second] = [one.watch(), one.watch()];
    const third = other.watch();
    writeTooMuch(disk);
    await assert.rejects(first(), LOST);
    await assert.rejects(second(), LOST, 'its files may be lost too');
    await assert.rejects(third(), LOST, 'the kernel has reported the loss already');
    // nothing was lost since then, if the disk can be written again; an aborted journal fails forever
    if (spawnSync('sync', ['-f', disk.path]).status === 0) await one.watch()();
  });

  it('fails both layers that share a sync', async () => {
    using disk = brittleExt4();
    using one = new StoreSync(disk.path);
    const [first, second] = [one.watch(), one.watch()];
    writeTooMuch(disk);
    const results = await Promise.allSettled([first(), second()]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ['rejected', 'rejected'],
    );
  });
});
