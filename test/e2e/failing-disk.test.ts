import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { freePort } from '../../dev/local-programs.ts';
import { brittleExt4, type Disk, ext4, readOnlySwitch, shutdown, unavailable } from '../support/file-system.ts';
import { imageOf, layerOf } from '../support/layout.ts';
import { referenceTrees } from '../support/store-trees.ts';
import { file, type Member, tar } from '../support/tar.ts';
import { chainOf, type Stage, someImage, someLayer, stage, until, type WorkerProcess } from './stage.ts';

const LIMIT = 120_000;

/** The URL of a worker's health server, from its log. */
const health = (worker: WorkerProcess): string => /health at (http:[^"]+)/.exec(worker.log())?.[1] ?? '';

/** The files that were written into unfinished snapshots so far. */
function written(s: Stage): number {
  const snapshots = join(s.root, 'snapshots');
  return readdirSync(snapshots)
    .filter((name) => /^\d+$/.test(name))
    .reduce((sum, id) => sum + readdirSync(join(snapshots, id, 'fs')).length, 0);
}

describe('a disk that becomes read-only during a job', { skip: unavailable(() => ext4()) }, () => {
  it('returns the job, takes no other until the disk is writable, and then continues', async () => {
    using disk = ext4();
    using stack = new DisposableStack();
    await using s = await stage({ root: join(disk.path, 'store') });
    // an uncompressed tar, stalled between two entries: a file that is open for writing would prevent the remount
    const members: Member[] = Array.from({ length: 200 }, (_, index) => file(`f${index}`, 'x'.repeat(400)));
    const image = imageOf([layerOf(tar(...members), 'none')]);
    await s.push('ro', { app: image });
    // durable, because the switch is another mount, through which unsynced layers are not used
    const env = { UNPACK_S3_IDLE_TIMEOUT: '2s', UNPACK_HEALTH_PORT: '0', UNPACK_DURABLE: 'true' };
    const worker = await s.worker(env);
    const snapshots = join(s.root, 'snapshots');
    const readOnly = stack.use(readOnlySwitch(snapshots));
    s.proxy.rules([{ fault: { kind: 'stall', afterBytes: 100 * 1024 }, when: ({ key }) => key.includes('sha256') }]);

    const job = await s.queue.add(s.payload('ro'));
    await until(() => written(s) === 100, LIMIT);
    readOnly.set(true);
    s.proxy.rules([]);
    await worker.logged(/takes no more jobs until the store can be written/);
    await until(async () => (await s.queue.status(job.id)).state === 'waiting', LIMIT);
    const { progress, attemptsMade } = await s.queue.status(job.id);
    assert.deepEqual([attemptsMade, progress?.failures, progress?.storeFaults], [0, [], 1]);
    await worker.logged(
      /given back, not counted as an attempt \(1 of at most 3 times\): \[STORE_FAILED\] layer 1 of 1 .*: \/.*\/snapshots\/\d+\/fs: the entry \\"f1\d\d\\" .*EROFS.*mount it read-write/,
    );
    const ready = await fetch(`${health(worker)}/readyz`);
    assert.equal(ready.status, 503);
    assert.match(await ready.text(), /^takes no jobs until the store can be written: .*EROFS/);
    assert.equal((await fetch(`${health(worker)}/healthz`)).status, 200);

    readOnly.set(false);
    const result = await s.queue.wait(job, { timeout: LIMIT });
    assert.equal(result.attempts, 1);
    assert.equal(result.images[0]?.chainId, image.chainId);
    assert.equal((await fetch(`${health(worker)}/readyz`)).status, 200);
    await worker.logged(/the store can be written again/);
    assert.equal(worker.log().split('takes no more jobs').length, 2, 'logged once');
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
    await s.assertClean(chainOf(image));
    assert.deepEqual(s.locks(), []);
    assert.equal(worker.child.exitCode, null);
  });
});

describe('a disk that is mounted over the store of a running worker', { skip: unavailable(() => ext4()) }, () => {
  it('keeps what it holds: jobs go back to the queue, and are done by a worker that starts afterwards', async () => {
    using disk = ext4();
    await using s = await stage({ root: join(disk.path, 'store') });
    const held = someImage('held', 3);
    const other = someImage('other', 2);
    await s.push('held', { app: held });
    await s.push('other', { app: other });
    const before = await s.worker({ UNPACK_HEALTH_PORT: '0' });
    await s.queue.wait(await s.queue.add(s.payload('held')), { timeout: LIMIT });
    before.kill('SIGTERM');
    await before.ended;
    const trees = await s.stored();
    const hidden = `${disk.path}/hidden`;
    renameSync(s.root, hidden);

    const early = await s.worker({ UNPACK_HEALTH_PORT: '0' });
    execFileSync('mount', ['--bind', hidden, s.root]);
    try {
      const job = await s.queue.add(s.payload('other'));
      await early.logged(
        /takes no more jobs until the store can be written: .* is not the one that this process opened: .*restart unpackd/,
      );
      await until(async () => (await s.queue.status(job.id)).state === 'waiting', LIMIT);
      assert.deepEqual(await s.stored(), trees, 'the layers on the disk are as they were');
      early.kill('SIGTERM');
      await early.ended;
      await s.worker();
      const result = await s.queue.wait(job, { timeout: LIMIT });
      assert.equal(result.images[0]?.chainId, other.chainId);
      assert.deepEqual(await s.stored(), await referenceTrees({ held, other }));
    } finally {
      execFileSync('umount', ['-l', s.root]);
    }
  });
});

describe('a snapshot directory that is removed while a layer is written', () => {
  it('is STORE_FAILED, and the next attempt gets a new directory', async () => {
    await using s = await stage();
    const members: Member[] = Array.from({ length: 200 }, (_, index) => file(`f${index}`, 'x'.repeat(400)));
    const image = imageOf([layerOf(tar(...members), 'none')]);
    await s.push('gone', { app: image });
    await s.worker({ UNPACK_BACKOFF: '1s', UNPACK_S3_IDLE_TIMEOUT: '2s' });
    s.proxy.rules([{ fault: { kind: 'stall', afterBytes: 100 * 1024 }, when: ({ key }) => key.includes('sha256') }]);
    const job = await s.queue.add(s.payload('gone'));
    await until(() => written(s) === 100);
    for (const name of readdirSync(join(s.root, 'snapshots')).filter((name) => name !== 'store.json'))
      rmSync(join(s.root, 'snapshots', name), { recursive: true });
    s.proxy.rules([]);
    const result = await s.queue.wait(job, { timeout: 120_000 });
    assert.equal(result.attempts, 2);
    const [failure] = (await s.queue.status(job.id)).progress?.failures ?? [];
    assert.equal(failure?.code, 'STORE_FAILED');
    assert.match(failure.message, /\/snapshots\/\d+\/fs is not there any more/);
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
    await s.assertClean(chainOf(image));
  });
});

describe('a leftover that cannot be removed', { skip: unavailable(() => ext4()) }, () => {
  it('does not prevent the start of a worker or the removal of other leftovers', async () => {
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
      assert.match(
        worker.log(),
        /not all leftovers of dead workers can be removed [^"]*store\/snapshots\/rm-1[^"]*lsattr/,
      );
      // the worker has also removed the snapshot of its probe, whose files go in the background
      await until(() => readdirSync(join(s.root, 'snapshots')).join() === 'rm-1,store.json');
      const result = await s.queue.wait(await s.queue.add(s.payload('stuck')), { timeout: 120_000 });
      assert.equal(result.images[0]?.chainId, image.chainId);
    } finally {
      execFileSync('chattr', ['-i', join(stuck, 'file')]);
    }
  });
});

describe('a worker that starts on a read-only disk', { skip: unavailable(() => ext4()) }, () => {
  it('logs the reason, waits, and continues once the disk is writable', async () => {
    using disk = ext4();
    using stack = new DisposableStack();
    await using s = await stage({ root: join(disk.path, 'store') });
    const image = someImage('early', 1);
    await s.push('early', { app: image });
    const before = await s.worker();
    before.kill('SIGTERM');
    await before.ended;
    const readOnly = stack.use(readOnlySwitch(join(s.root, 'snapshots')));
    readOnly.set(true);
    const port = await freePort();
    const starting = s.worker({ UNPACK_HEALTH_PORT: String(port) });
    const reason = async () =>
      fetch(`http://127.0.0.1:${port}/readyz`).then(
        async (answer) => `${answer.status} ${await answer.text()}`,
        () => '',
      );
    await until(async () => /^503 takes no jobs until the store can be opened: .*EROFS/.test(await reason()), LIMIT);
    const job = await s.queue.add(s.payload('early'), { attempts: 1 });
    readOnly.set(false);
    assert.equal((await s.queue.wait(job, { timeout: LIMIT })).attempts, 1);
    await starting;
    assert.match(await reason(), /^200 ready/);
    await s.assertClean(chainOf(image));
  });
});

describe('a disk that dies', { skip: unavailable(() => ext4()) }, () => {
  it('fails no job; the worker reports it and can be stopped', async () => {
    using disk: Disk = ext4();
    await using s = await stage({ root: join(disk.path, 'store') });
    await s.push('dead', { app: someImage('dead', 1), other: someImage('other', 1) });
    const worker = await s.worker({ UNPACK_HEALTH_PORT: '0' });
    shutdown(disk.path);
    const job = await s.queue.add(s.payload('dead'), { attempts: 1 });
    await worker.logged(/takes no more jobs until the store can be written/);
    const next = await s.queue.add(s.payload('dead', 'other'), { attempts: 1 });
    assert.match(await (await fetch(`${health(worker)}/readyz`)).text(), /dmesg/);
    for (const { id } of [job, next]) {
      // a returned job is active, and then delayed for a moment, so that it gets its place in the queue back
      await until(async () => (await s.queue.status(id)).state === 'waiting', LIMIT);
      assert.equal((await s.queue.status(id)).attemptsMade, 0);
    }
    worker.kill('SIGTERM');
    assert.equal(await worker.ended, 0, worker.log());
  });
});

describe('a disk that loses writes', { skip: unavailable(() => brittleExt4()) }, () => {
  it('commits no lost layer; the worker can be stopped', async () => {
    using disk: Disk = brittleExt4();
    await using s = await stage({ root: join(disk.path, 'store') });
    await s.push('lost', { app: imageOf([someLayer('lost', 20, 2_000_000)]) });
    const worker = await s.worker({ UNPACK_DURABLE: 'true' });
    const job = await s.queue.add(s.payload('lost'), { attempts: 2 });
    // whether a probe of this disk succeeds depends on the kernel
    const isOver = async () => {
      const { state, progress } = await s.queue.status(job.id);
      return state === 'failed' || (state === 'waiting' && (progress?.storeFaults ?? 0) > 0);
    };
    await until(isOver, LIMIT);
    const { state, progress } = await s.queue.status(job.id);
    for (const { code, message } of progress?.failures ?? []) {
      assert.equal(code, 'STORE_FAILED', message);
      assert.match(message, /dmesg|read-only/);
    }
    if (state === 'waiting') await worker.logged(/given back, not counted .*\[STORE_FAILED\] .*(dmesg|read-only)/);
    assert.equal(worker.child.exitCode, null);
    worker.kill('SIGTERM');
    assert.equal(await worker.ended, 0, worker.log());
  });
});
