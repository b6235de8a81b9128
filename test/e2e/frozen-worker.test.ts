import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Queue } from 'bullmq';
import { imageOf, layerOf, type TestImage } from '../support/layout.ts';
import { referenceTrees } from '../support/store-trees.ts';
import { file, type Member, tar } from '../support/tar.ts';
import { chainOf, type Stage, someImage, stage, until, type WorkerProcess } from './stage.ts';

const LIMIT = 120_000;
/** Timeouts that are half a minute each by default: until a job counts as stalled, and until an idle connection is closed. */
const SOON = { UNPACK_LOCK: '5s', UNPACK_S3_IDLE_TIMEOUT: '3s' };

/** A worker that is stopped (SIGSTOP) while it applies the image `base` and holds its locks. */
async function frozenWorker(s: Stage, base: TestImage): Promise<{ worker: WorkerProcess; job: string }> {
  await s.push('base', { app: base });
  const worker = await s.worker({ ...SOON, UNPACK_JOBS: '1', UNPACK_WORKER_NAME: 'frozen' });
  s.proxy.rules([{ fault: { kind: 'stall', afterBytes: 100 * 1024 }, when: ({ key }) => key.includes('sha256') }]);
  const { id } = await s.queue.add(s.payload('base'));
  await until(() => written(s) > 0, LIMIT);
  worker.kill('SIGSTOP');
  s.proxy.rules([]);
  return { worker, job: id };
}

/** An uncompressed layer of small files, longer than the part that the proxy lets through. */
const longLayer = (): TestImage => {
  const members: Member[] = Array.from({ length: 200 }, (_, index) => file(`f${index}`, 'x'.repeat(400)));
  return imageOf([layerOf(tar(...members), 'none')]);
};

/** The files that were written into unfinished snapshots so far. */
function written(s: Stage): number {
  const snapshots = join(s.root, 'snapshots');
  const ids = (existsSync(snapshots) ? readdirSync(snapshots) : []).filter((name) => /^\d+$/.test(name));
  return ids.reduce((sum, id) => sum + readdirSync(join(snapshots, id, 'fs')).length, 0);
}

describe('a worker that was stopped in the middle of a layer', () => {
  it('delays no job of another image; jobs of its image continue in order when the worker does', async () => {
    await using s = await stage();
    const base = longLayer();
    const { worker: frozen, job } = await frozenWorker(s, base);
    const holder = JSON.parse(readFileSync(join(s.root, 'locks', s.locks()[0] ?? ''), 'utf8'));
    assert.deepEqual([holder.pid, holder.worker, holder.job], [frozen.child.pid, 'frozen', job]);

    // more jobs than slots wait for the layer, and others follow
    const others = Array.from({ length: 8 }, (_, index) => someImage(`other-${index}`, 1));
    for (const [index, image] of others.entries()) await s.push(`other-${index}`, { app: image });
    const same = await s.queue.addBulk(
      Array.from({ length: 6 }, () => ({ payload: s.payload('base'), options: { deduplicate: false } })),
    );
    const healthy = await s.worker({ ...SOON, UNPACK_JOBS: '4', UNPACK_WORKER_NAME: 'healthy' });
    const began = performance.now();
    const added = await s.queue.addBulk(others.map((_, index) => ({ payload: s.payload(`other-${index}`) })));
    const results = await Promise.all(added.map(({ id }) => s.queue.wait(id, { timeout: LIMIT })));
    const took = performance.now() - began;
    assert.deepEqual(
      results.map(({ worker }) => worker.name),
      others.map(() => 'healthy'),
    );
    console.log(`8 jobs of other images beside a frozen worker: ${Math.round(took)} ms`);

    for (const { id } of same) {
      await until(async () => (await s.queue.status(id)).progress?.waiting !== undefined, LIMIT);
      const { progress, attemptsMade } = await s.queue.status(id);
      assert.equal(attemptsMade, 0);
      assert.deepEqual(
        [progress?.waiting?.chainId, progress?.waiting?.holder?.pid, progress?.waiting?.holder?.worker],
        [base.chainId, frozen.child.pid, 'frozen'],
      );
    }
    // deduplication still gives the same job
    await using bull = {
      queue: new Queue('image-unpack', { connection: { url: s.redis.url } }),
      [Symbol.asyncDispose]: async () => bull.queue.close(),
    };
    const again = await s.queue.add(s.payload('base'));
    assert.deepEqual([again.id, again.deduplicated], [job, true]);
    const { logs } = await bull.queue.getJobLogs(same[0]?.id ?? '');
    assert.ok(
      logs.some((line) =>
        /WARN waits for the layer of chain ID .*: process \d+ on \S+ \(worker frozen, job \S+\) has locked it since .*gives its slot back/.test(
          line,
        ),
      ),
      logs.join('\n'),
    );

    const waked = performance.now();
    frozen.kill('SIGCONT');
    const all = await Promise.all([job, ...same.map(({ id }) => id)].map((id) => s.queue.wait(id, { timeout: LIMIT })));
    console.log(`7 jobs of the same image after it goes on: ${Math.round(performance.now() - waked)} ms`);
    for (const result of all) assert.equal(result.attempts, 1);
    assert.deepEqual(
      await s.stored().then((trees) => trees[base.chainId]),
      (await referenceTrees({ app: base }))[base.chainId],
    );
    await s.assertClean([...others, base].flatMap(chainOf));
    assert.equal(healthy.child.exitCode, null);
  });

  it('fails a job of its image with TIMED_OUT after the time limit, which includes the pauses', async () => {
    await using s = await stage();
    const base = longLayer();
    const { job } = await frozenWorker(s, base);
    await s.worker({ ...SOON, UNPACK_JOB_TIMEOUT: '12s', UNPACK_ATTEMPTS: '1' });
    await assert.rejects(s.queue.wait(job, { timeout: LIMIT }), (error: { code?: unknown; message: string }) => {
      assert.equal(error.code, 'TIMED_OUT');
      assert.match(
        error.message,
        /^the attempt took longer than 12 s .*for [\d.]+ s it waited for the layer .*worker frozen.*kill -CONT/,
      );
      return true;
    });
    const { progress, attemptsMade } = await s.queue.status(job);
    assert.equal(attemptsMade, 1);
    assert.equal(progress?.waiting, undefined);
  });

  it('is waited for by a worker that exits meanwhile; after its death any other worker continues', async () => {
    await using s = await stage();
    const base = longLayer();
    const { worker: frozen, job } = await frozenWorker(s, base);
    const first = await s.worker({ ...SOON, UNPACK_WORKER_NAME: 'first' });
    await until(async () => (await s.queue.status(job)).progress?.waiting !== undefined, LIMIT);
    first.kill('SIGTERM');
    assert.equal(await first.ended, 0, first.log());
    assert.equal((await s.queue.status(job)).state, 'delayed');
    const second = await s.worker({ ...SOON, UNPACK_WORKER_NAME: 'second' });
    frozen.kill('SIGKILL');
    const result = await s.queue.wait(job, { timeout: LIMIT });
    assert.deepEqual([result.worker.name, result.attempts], ['second', 1]);
    assert.equal(second.child.exitCode, null);
    await s.assertClean(chainOf(base));
  });
});
