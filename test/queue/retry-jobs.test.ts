import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { type FailureCode, UnpackError } from '../../src/errors.ts';
import { cancelKey } from '../../src/queue/cancellation.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';

const fixture = queueFixture();

/** A queue whose worker fails every job with this code until `mended`. */
async function failing(code: FailureCode) {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const state = { mended: false, runs: 0 };
  const worker = await fixture.worker(settings, () => {
    state.runs += 1;
    if (state.mended) return [image('applied')];
    throw new UnpackError(code, 'scripted');
  });
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  return { settings, queue, state, worker, redis, bull: fixture.bull(settings) };
}

test('a retried job has all its attempts again, and completes', async () => {
  const { queue, state } = await failing('SOURCE_UNAVAILABLE');
  const job = await queue.add(payload('one'), { attempts: 2 });
  await assert.rejects(queue.wait(job), { code: 'SOURCE_UNAVAILABLE' });
  assert.deepEqual(await queue.retry([job.id]), [{ id: job.id, retried: true }]);
  await assert.rejects(queue.wait(job), { code: 'SOURCE_UNAVAILABLE' });
  assert.equal(state.runs, 4);
  assert.equal((await queue.status(job.id)).attemptsMade, 2);
  state.mended = true;
  await queue.retry([job.id]);
  assert.equal((await queue.wait(job)).attempts, 1);
});

test('a failure that is retried once is retried once again after a retry by hand', async () => {
  const { queue, state } = await failing('BLOB_DIGEST_MISMATCH');
  const job = await queue.add(payload('one'), { attempts: 5 });
  await assert.rejects(queue.wait(job));
  assert.equal(state.runs, 2);
  await queue.retry([job.id]);
  await assert.rejects(queue.wait(job));
  assert.equal(state.runs, 4);
});

test('a job that is not failed or not there is refused with a sentence', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const waiting = await queue.add(payload('one'));
  const prioritized = await queue.add(payload('two'), { priority: 3 });
  assert.deepEqual(await queue.retry([waiting.id, prioritized.id, 'nothing']), [
    {
      id: waiting.id,
      retried: false,
      code: 'JOB_NOT_FAILED',
      message: `job ${waiting.id} is waiting: only a failed job can be retried`,
    },
    {
      id: prioritized.id,
      retried: false,
      code: 'JOB_NOT_FAILED',
      message: `job ${prioritized.id} is prioritized: only a failed job can be retried`,
    },
    {
      id: 'nothing',
      retried: false,
      code: 'JOB_NOT_FOUND',
      message: 'job nothing does not exist: the ID is wrong, or the job was removed after it finished',
    },
  ]);
});

test('a job whose image was added again meanwhile is refused, and names the other job', async () => {
  const { queue, worker, redis, bull } = await failing('MANIFEST_INVALID');
  const failed = await queue.add(payload('same'));
  await assert.rejects(queue.wait(failed));
  await worker.close();
  const again = await queue.add(payload('same'));
  assert.notEqual(again.id, failed.id);
  const [refused] = await queue.retry([failed.id]);
  assert.ok(refused !== undefined && !refused.retried);
  assert.equal(refused.code, 'SAME_WORK_ADDED');
  assert.match(refused.message, new RegExp(`job ${again.id} for the same image waits or runs`));
  assert.equal((await queue.status(failed.id)).state, 'failed');
  // a key that leads to a job that is gone does not count
  const keys = await redis.keys(bull.toKey('de:*'));
  await bull.remove(again.id);
  for (const key of keys) await redis.set(key, again.id);
  assert.equal((await queue.retry([failed.id]))[0]?.retried, true);
});

test('new jobs for the same work find a retried job, and of two failed ones one is retried', async () => {
  const { queue, worker } = await failing('MANIFEST_INVALID');
  const first = await queue.add(payload('same'));
  await assert.rejects(queue.wait(first));
  const second = await queue.add(payload('same'));
  await assert.rejects(queue.wait(second));
  await worker.close();
  const outcomes = await queue.retry([first.id, second.id]);
  assert.deepEqual(
    outcomes.map(({ retried }) => retried),
    [true, false],
  );
  assert.deepEqual(await queue.add(payload('same')), { id: first.id, deduplicated: true });
});

test('a cancel request from before the failure does not cancel the retried job', async () => {
  const { queue, state, redis, bull } = await failing('MANIFEST_INVALID');
  const job = await queue.add(payload('one'));
  await assert.rejects(queue.wait(job));
  await redis.set(cancelKey(bull, job.id), 'too late');
  state.mended = true;
  await queue.retry([job.id]);
  await queue.wait(job);
});

test('jobs that BullMQ failed, jobs of other programs and thousands of jobs are retried', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const bull = fixture.bull(settings);
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  const jobs = await bull.addBulk(
    Array.from({ length: 3000 }, (_, number) => ({
      name: number % 2 === 0 ? 'unpack' : 'other',
      data: number % 2 === 0 ? payload(`number-${number}`) : 'no payload',
      opts: { attempts: 1, ...(number % 3 === 0 ? { priority: 7 } : {}) },
    })),
  );
  const ids = jobs.flatMap(({ id }) => id ?? []);
  const pipeline = redis.pipeline();
  pipeline.del(bull.toKey('wait'), bull.toKey('prioritized'));
  for (const [index, id] of ids.entries()) {
    pipeline.zadd(bull.toKey('failed'), Date.now() - (index < 1000 ? 7_200_000 : 0), id);
    pipeline.hset(bull.toKey(id), 'failedReason', 'job stalled more than allowable limit', 'atm', 1, 'finishedOn', 1);
  }
  await pipeline.exec();
  const broken = ids[2999] ?? '';
  await redis.hset(bull.toKey(broken), 'data', '{');
  assert.deepEqual(await queue.failed('STALLED'), []);
  assert.equal((await queue.failed('INTERNAL', Date.now() - 3_600_000)).length, 2000);
  const failed = await queue.failed('INTERNAL');
  assert.equal(failed.length, 3000);
  const outcomes = await queue.retry(failed);
  assert.deepEqual(
    outcomes.flatMap((outcome) => (outcome.retried ? [] : [[outcome.id, outcome.code]])),
    [[broken, 'JOB_UNREADABLE']],
  );
  assert.deepEqual(await queue.counts(), {
    waiting: 1999,
    prioritized: 1000,
    delayed: 0,
    active: 0,
    completed: 0,
    failed: 1,
  });
  await eventually('the attempts are counted anew', async () => (await redis.hget(bull.toKey('1'), 'atm')) === null);
});
