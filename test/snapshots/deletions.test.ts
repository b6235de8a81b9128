import assert from 'node:assert/strict';
import { existsSync, mkdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import '../support/needs-root.ts';
import { Deletions } from '../../src/snapshots/deletions.ts';
import { Leases } from '../../src/snapshots/leases.ts';
import { ext4, unavailable } from '../support/file-system.ts';

const FILES = 10_000;

test('deletions pause while a job runs, but not on a full disk', { skip: unavailable(() => ext4()) }, async () => {
  using disk = ext4(['-N', '20000'], 128 << 20);
  const root = disk.path;
  /** Milliseconds that the deletion of a tree takes. */
  const deletion = async (): Promise<number> => {
    const tree = join(root, 'rm-1-0123abcd');
    for (let folder = 0; folder < 10; folder += 1) {
      mkdirSync(join(tree, `${folder}`), { recursive: true });
      for (let file = 0; file < FILES / 10; file += 1) writeFileSync(join(tree, `${folder}/${file}`), '');
    }
    const began = performance.now();
    await new Deletions(root).now(tree, new AbortController().signal);
    assert.equal(existsSync(tree), false);
    return performance.now() - began;
  };
  const alone = Math.min(await deletion(), await deletion());
  await using lease = await new Leases(root).take(['needed'], { job: 'job-7' });
  // it takes a tenth of the time
  const beside = await deletion();
  assert.ok(beside > 4 * alone, `${beside} ms beside a job, ${alone} ms alone`);
  const { bavail, bsize } = statfsSync(root);
  writeFileSync(join(root, 'ballast'), Buffer.alloc(bavail * bsize - (4 << 20)));
  const full = Math.min(await deletion(), await deletion());
  assert.ok(full < beside / 2, `${full} ms on a full disk, ${beside} ms before`);
  rmSync(join(root, 'ballast'));
  // the disk is not full, but the job needs more than is free
  await lease.update({ bytes: 1 << 30, inodes: 0 });
  const needed = Math.min(await deletion(), await deletion());
  assert.ok(needed < beside / 2, `${needed} ms when the job needs space, ${beside} ms before`);
});
