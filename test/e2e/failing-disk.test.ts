import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { brittleExt4, type Disk, ext4, unavailable } from '../support/file-system.ts';
import { imageOf, layerOf } from '../support/layout.ts';
import { referenceTrees } from '../support/store-trees.ts';
import { file, type Member, tar } from '../support/tar.ts';
import { chainOf, type Stage, someImage, someLayer, stage, until } from './stage.ts';

const mount = (...parameters: readonly string[]): void => void execFileSync('mount', parameters);

/** Names that layers have got so far in directories of unfinished snapshots. */
function written(s: Stage): number {
  const snapshots = join(s.root, 'snapshots');
  return readdirSync(snapshots)
    .filter((name) => /^\d+$/.test(name))
    .reduce((sum, id) => sum + readdirSync(join(snapshots, id, 'fs')).length, 0);
}

describe('a store whose disk becomes read-only under a running job', { skip: unavailable(() => ext4()) }, () => {
  it('is STORE_FAILED; the worker goes on, and the job too once the disk can be written again', async () => {
    using disk = ext4();
    using stack = new DisposableStack();
    await using s = await stage({ root: join(disk.path, 'store') });
    // a tar as it is, held back where an entry ends: a file that is open for writing would keep the disk writable
    const members: Member[] = Array.from({ length: 200 }, (_, index) => file(`f${index}`, 'x'.repeat(400)));
    const image = imageOf([layerOf(tar(...members), 'none')]);
    await s.push('ro', { app: image });
    const worker = await s.worker({ UNPACK_BACKOFF: '1s', UNPACK_ATTEMPTS: '20', UNPACK_S3_IDLE_TIMEOUT: '2s' });
    const snapshots = join(s.root, 'snapshots');
    mount('--bind', snapshots, snapshots);
    stack.defer(() => execFileSync('umount', ['--lazy', snapshots]));
    s.proxy.rules([{ fault: { kind: 'stall', afterBytes: 100 * 1024 }, when: ({ key }) => key.includes('sha256') }]);

    const job = await s.queue.add(s.payload('ro'));
    await until(() => written(s) === 100);
    mount('-o', 'remount,bind,ro', snapshots);
    s.proxy.rules([]);
    await until(async () => (await s.queue.status(job.id)).attemptsMade >= 2, 60_000);
    const { progress } = await s.queue.status(job.id);
    const [first, second] = progress?.failures ?? [];
    assert.equal(first?.code, 'STORE_FAILED');
    assert.match(
      first.message,
      /^layer 1 of 1 .*: \/.*\/snapshots\/\d+\/fs: the entry "f1\d\d" .*EROFS.*mount it read-write/,
    );
    assert.equal(second?.code, 'STORE_FAILED');
    assert.match(second.message, /^layer 1 of 1 .*EROFS.*\/snapshots\/.*mount it read-write/);
    assert.equal(worker.child.exitCode, null);

    mount('-o', 'remount,bind,rw', snapshots);
    const result = await s.queue.wait(job, { timeout: 60_000 });
    assert.equal(result.images[0]?.chainId, image.chainId);
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
    assert.deepEqual(readdirSync(snapshots).length, 1, 'what could not be removed before is gone');
    await s.assertClean(chainOf(image));
    assert.deepEqual(readdirSync(join(s.root, 'locks')), []);
  });
});

describe('a directory that somebody removes while a layer is written there', () => {
  it('is STORE_FAILED, which blames no layer, and another attempt gets a new one', async () => {
    await using s = await stage();
    const members: Member[] = Array.from({ length: 200 }, (_, index) => file(`f${index}`, 'x'.repeat(400)));
    const image = imageOf([layerOf(tar(...members), 'none')]);
    await s.push('gone', { app: image });
    await s.worker({ UNPACK_BACKOFF: '1s' });
    s.proxy.rules([{ fault: { kind: 'stall', afterBytes: 100 * 1024 }, when: ({ key }) => key.includes('sha256') }]);
    const job = await s.queue.add(s.payload('gone'));
    await until(() => written(s) === 100);
    for (const name of readdirSync(join(s.root, 'snapshots')))
      rmSync(join(s.root, 'snapshots', name), { recursive: true });
    s.proxy.rules([]);
    const result = await s.queue.wait(job, { timeout: 60_000 });
    assert.equal(result.attempts, 2);
    const [failure] = (await s.queue.status(job.id)).progress?.failures ?? [];
    assert.equal(failure?.code, 'STORE_FAILED');
    assert.match(failure.message, /\/snapshots\/\d+\/fs is not there any more/);
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
    await s.assertClean(chainOf(image));
  });
});

describe('something in the store that cannot be removed', { skip: unavailable(() => ext4()) }, () => {
  it('keeps no worker from starting, and nothing else from being cleared away', async () => {
    using disk = ext4();
    await using s = await stage({ root: join(disk.path, 'store') });
    const stuck = join(s.root, 'snapshots', 'rm-1');
    const other = join(s.root, 'snapshots', 'rm-2');
    for (const folder of [stuck, other]) {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      writeFileSync(join(folder, 'file'), '');
    }
    execFileSync('chattr', ['+i', join(stuck, 'file')]);
    try {
      const image = someImage('stuck', 1);
      await s.push('stuck', { app: image });
      const worker = await s.worker();
      assert.match(worker.log(), /cannot all be removed: [^"]*EPERM[^"]*lsattr/);
      assert.deepEqual(readdirSync(join(s.root, 'snapshots')), ['rm-1']);
      const result = await s.queue.wait(await s.queue.add(s.payload('stuck')), { timeout: 60_000 });
      assert.equal(result.images[0]?.chainId, image.chainId);
    } finally {
      execFileSync('chattr', ['-i', join(stuck, 'file')]);
    }
  });
});

describe('a disk that dies', { skip: unavailable(() => brittleExt4()) }, () => {
  it('fails jobs with STORE_FAILED, commits nothing that is lost, and leaves a worker that can be ended', async () => {
    using disk: Disk = brittleExt4();
    await using s = await stage({ root: join(disk.path, 'store') });
    const image = imageOf([someLayer('lost', 20, 2_000_000)]);
    await s.push('dead', { app: image, other: someImage('other', 1) });
    const worker = await s.worker({ UNPACK_DURABLE: 'true' });
    const job = await s.queue.add(s.payload('dead'), { attempts: 2 });
    await assert.rejects(s.queue.wait(job, { timeout: 60_000 }), { code: 'STORE_FAILED' });
    const { progress } = await s.queue.status(job.id);
    for (const { code, message } of progress?.failures ?? []) {
      assert.equal(code, 'STORE_FAILED', message);
      assert.match(message, /dmesg|read-only/);
    }
    const next = await s.queue.add(s.payload('dead', 'other'), { attempts: 1 });
    await assert.rejects(s.queue.wait(next, { timeout: 60_000 }), (error: { code?: unknown; message: string }) => {
      assert.equal(error.code, 'STORE_FAILED', error.message);
      assert.match(error.message, /dmesg|read-only/);
      return true;
    });
    assert.equal(worker.child.exitCode, null);
    worker.kill('SIGTERM');
    assert.equal(await worker.ended, 0, worker.log());
  });
});
