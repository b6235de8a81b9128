import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { StoreSync } from '../../src/rootfs/durability.ts';
import { brittleExt4, unavailable } from '../support/file-system.ts';

const LOST = { code: 'STORE_FAILED', message: /not all that was written has reached the disk .*dmesg/ };

describe('a disk that takes what is written and cannot keep it', { skip: unavailable(() => brittleExt4()) }, () => {
  it('fails every layer that was being written then, in this process and in others', async () => {
    using disk = brittleExt4();
    using one = new StoreSync(disk.path);
    using other = new StoreSync(disk.path); // as in another worker
    const [first, second] = [one.watch(), one.watch()];
    const third = other.watch();
    writeFileSync(join(disk.path, 'too large'), Buffer.alloc(40 << 20, 1));
    await assert.rejects(first(), LOST);
    await assert.rejects(second(), LOST, 'it may be the one whose files are lost');
    await assert.rejects(third(), LOST, 'the kernel has told of it once already');
    await one.watch()(); // nothing has been lost since
  });

  it('fails both layers that share a round', async () => {
    using disk = brittleExt4();
    using one = new StoreSync(disk.path);
    const [first, second] = [one.watch(), one.watch()];
    writeFileSync(join(disk.path, 'too large'), Buffer.alloc(40 << 20, 1));
    const results = await Promise.allSettled([first(), second()]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ['rejected', 'rejected'],
    );
  });
});
