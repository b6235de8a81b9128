import assert from 'node:assert/strict';
import { appendFileSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { JobHandle } from '../../src/queue/producer.ts';
import { ext4, readOnlySwitch, shutdown, tmpfs, unavailable } from '../support/file-system.ts';
import { chainOf, type Stage, someImage, stage, until } from './stage.ts';

const LIMIT = 240_000;
const JOBS = 50;

const CLOSED = /takes no more jobs until/;

/** Adds fifty jobs with one attempt each, for fifty images. */
async function fifty(s: Stage): Promise<{ jobs: JobHandle[]; chains: string[] }> {
  const images = Array.from({ length: JOBS }, (_, index) => someImage(`image-${index}`, 1, 3, 500));
  await Promise.all(images.map((image, index) => s.push(`p${index}`, { app: image })));
  const jobs = await s.queue.addBulk(
    images.map((_, index) => ({ payload: s.payload(`p${index}`), options: { attempts: 1 } })),
  );
  return { jobs, chains: images.flatMap(chainOf) };
}

/** Waits for all jobs; fails if one has failed or needed a second attempt. */
async function allCompleted(s: Stage, jobs: readonly JobHandle[]): Promise<Record<string, number>> {
  const results = await Promise.all(jobs.map((job) => s.queue.wait(job, { timeout: LIMIT })));
  const byWorker: Record<string, number> = {};
  for (const { worker, attempts } of results) {
    assert.equal(attempts, 1);
    byWorker[worker.name] = (byWorker[worker.name] ?? 0) + 1;
  }
  return byWorker;
}

describe('a worker whose disk is broken', { skip: unavailable(() => ext4()) }, () => {
  for (const [how, isGone] of [
    ['gone', true],
    ['read-only', false],
  ] as const) {
    it(`leaves all of fifty jobs to a healthy worker if its disk is ${how}`, async () => {
      using disk = ext4();
      using stack = new DisposableStack();
      await using s = await stage();
      const root = join(disk.path, 'store');
      const broken = await s.worker({ UNPACK_ROOT: root, UNPACK_WORKER_NAME: 'broken' });
      if (isGone) shutdown(disk.path);
      else stack.use(readOnlySwitch(join(root, 'snapshots'))).set(true);
      const began = performance.now();
      const { jobs, chains } = await fifty(s);
      await broken.logged(CLOSED);
      const healthy = await s.worker({ UNPACK_WORKER_NAME: 'healthy' });
      assert.deepEqual(await allCompleted(s, jobs), { healthy: JOBS });
      console.log(`50 jobs beside a disk that is ${how}: ${Math.round(performance.now() - began)} ms`);
      assert.equal(broken.log().split('takes no more jobs until').length, 2, 'logged once');
      assert.deepEqual([broken.child.exitCode, healthy.child.exitCode], [null, null]);
      await s.assertClean(chains);
    });
  }

  it('keeps fifty jobs if it is the only worker, and does them all once its disk is repaired', async () => {
    using disk = ext4();
    using stack = new DisposableStack();
    await using s = await stage({ root: join(disk.path, 'store') });
    const worker = await s.worker({ UNPACK_WORKER_NAME: 'alone' });
    const readOnly = stack.use(readOnlySwitch(join(s.root, 'snapshots')));
    readOnly.set(true);
    const { jobs, chains } = await fifty(s);
    await worker.logged(CLOSED);
    // a returned job is delayed for a moment, so that it gets its place in the queue back
    let counts = await s.queue.counts();
    await until(
      async () => {
        counts = await s.queue.counts();
        return counts.waiting === JOBS;
      },
      LIMIT,
      () => JSON.stringify(counts),
    );
    assert.deepEqual({ ...counts }, { waiting: JOBS, prioritized: 0, delayed: 0, active: 0, completed: 0, failed: 0 });
    const mended = performance.now();
    readOnly.set(false);
    assert.deepEqual(await allCompleted(s, jobs), { alone: JOBS });
    console.log(`50 jobs alone, from the mending of the disk on: ${Math.round(performance.now() - mended)} ms`);
    await s.assertClean(chains);
  });
});

describe('a worker whose disk is full', { skip: unavailable(() => tmpfs('size=64m')) }, () => {
  it('keeps fifty jobs, even if the disk is full at its start, and does them all once there is room', async () => {
    using disk = tmpfs('size=64m,nr_inodes=65536');
    await using s = await stage({ root: join(disk.path, 'store') });
    const ballast = join(disk.path, 'ballast');
    const fill = () => {
      const { bavail, bsize } = statfsSync(disk.path);
      appendFileSync(ballast, Buffer.alloc(Math.max(0, bavail * bsize - (300 << 10))));
    };
    fill();
    const worker = await s.worker({ UNPACK_WORKER_NAME: 'full', UNPACK_HEALTH_PORT: '0' });
    assert.match(worker.log(), CLOSED, 'before it is ready');
    const health = /health at (http:[^"]+)/.exec(worker.log())?.[1] ?? '';
    assert.match(
      await (await fetch(`${health}/readyz`)).text(),
      /takes no jobs until the store can be written: .*ENOSPC/,
    );
    const { jobs, chains } = await fifty(s);
    assert.equal((await s.queue.counts()).waiting, JOBS);
    const mended = performance.now();
    rmSync(ballast);
    assert.deepEqual(await allCompleted(s, jobs), { full: JOBS });
    console.log(`50 jobs on a full disk, from the room on: ${Math.round(performance.now() - mended)} ms`);
    assert.equal((await fetch(`${health}/readyz`)).status, 200);
    await s.assertClean(chains);
  });
});
