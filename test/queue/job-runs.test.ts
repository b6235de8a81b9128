import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { UnpackError } from '../../src/errors.ts';
import { RunningJobs } from '../../src/queue/job-runs.ts';
import { after } from '../../src/queue/time-limit.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';

const fixture = queueFixture();

test('an abort of a run that is still ending does not reach a later run of the same job', () => {
  const running = new RunningJobs();
  const first = running.add('job', 'token-1');
  const seen = running.runs(['job']);
  const second = running.add('job', 'token-2');
  running.lost('job', 'token-1');
  for (const run of seen) run.abort(new UnpackError('CANCELLED', 'cancelled before the second began'));
  assert.deepEqual([first.signal.aborted, second.signal.aborted], [true, false]);
  assert.equal(first.signal.reason.name, 'LockLostError');
  running.remove(first);
  assert.deepEqual([running.ids, running.size], [['job'], 1]);
  running.lost('job', 'token-2');
  assert.equal(second.signal.aborted, true);
});

test('a job that returns while its first run is still ending is completed by the second run, whose lock is renewed', async () => {
  const settings = fixture.settings({ UNPACK_LOCK: '3s' });
  const queue = fixture.producer(settings);
  const bull = fixture.bull(settings);
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  let lock = '';
  let unwound = () => {};
  const firstRun = new Promise<void>((resolve) => {
    unwound = resolve;
  });
  const worker = await fixture.worker(settings, async ({ number, signal }) => {
    if (number === 1) {
      await firstRun;
      throw new Error('the first run is over');
    }
    unwound();
    // half of a lock's time passes between two renewals, so without them the lock would be gone
    let renewals = -1;
    let left = 0;
    await eventually('its lock is renewed three times', async () => {
      const before = left;
      left = await redis.pttl(lock);
      if (left > before) renewals++;
      return renewals === 3;
    });
    signal?.throwIfAborted();
    return [image('applied')];
  });
  const job = await queue.add(payload('twice'), { attempts: 1 });
  lock = `${bull.toKey(job.id)}:lock`;
  await eventually('the job runs', async () => (await queue.status(job.id)).state === 'active');
  await eventually('the lock is taken away', async () => (await redis.del(lock)) === 1);
  const result = await queue.wait(job, { timeout: 60_000 });
  assert.equal(result.attempts, 1);
  assert.equal((await bull.getJob(job.id))?.stalledCounter, 1, 'the second run has not gone silent');
  assert.ok(worker.log.some(({ msg }) => String(msg).startsWith('the lock on the job is lost')));
});

test('a time limit of any length works', async () => {
  let called = false;
  const cancels = [2 ** 31, 600 * 3_600_000, Number.MAX_SAFE_INTEGER, Infinity].map((time) =>
    after(time, () => {
      called = true;
    }),
  );
  await sleep(50);
  for (const cancel of cancels) cancel();
  assert.equal(called, false);
  const settings = { ...fixture.settings(), UNPACK_JOB_TIMEOUT: 600 * 3_600_000, UNPACK_GRACE: 600 * 3_600_000 };
  const queue = fixture.producer(settings);
  await fixture.worker(settings, async ({ signal }) => {
    await sleep(100);
    assert.equal(signal?.aborted, false);
    return [image('applied')];
  });
  assert.equal((await queue.wait(await queue.add(payload('long')), { timeout: 600 * 3_600_000 })).attempts, 1);
});

test('the log has the start of an attempt before its failure', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const worker = await fixture.worker(settings, () => {
    throw new UnpackError('LAYER_UNSAFE', 'scripted');
  });
  const job = await queue.add(payload('unsafe'));
  await assert.rejects(queue.wait(job, { timeout: 60_000 }), { code: 'LAYER_UNSAFE' });
  const wrong = await fixture.bull(settings).add('unpack', { version: 2 }, { attempts: 1 });
  await eventually('the other one has failed', () => wrong.isFailed());
  for (const id of [job.id, wrong.id ?? '']) {
    const { logs } = await fixture.bull(settings).getJobLogs(id);
    const lines = worker.log.filter((line) => line.job === id).map(({ msg }) => String(msg));
    for (const log of [logs.map((line) => line.replace(/^\S+ (ERROR )?/, '')), lines]) {
      assert.match(log[0] ?? '', /^attempt 1 of \d on worker-1$/);
      assert.match(log[1] ?? '', /^attempt 1 of \d failed, it is not tried again: /);
    }
    const times = logs.map((line) => line.split(' ')[0]);
    assert.deepEqual(times, [...times].sort());
  }
});

test('a cancelled job and a shutdown are not logged as errors', async () => {
  const settings = fixture.settings({ UNPACK_GRACE: '10ms' });
  const queue = fixture.producer(settings);
  const worker = await fixture.worker(settings, ({ signal }) => {
    return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason), { once: true }));
  });
  const cancelled = await queue.add(payload('cancelled'));
  const stopped = await queue.add(payload('stopped'));
  await eventually('both run', async () => (await queue.counts()).active === 2);
  await queue.cancel(cancelled.id);
  await assert.rejects(queue.wait(cancelled, { timeout: 60_000 }), { code: 'CANCELLED' });
  await worker.close();
  assert.equal((await queue.status(stopped.id)).state, 'waiting');
  assert.ok(worker.log.some(({ msg }) => String(msg).includes('[CANCELLED]')));
  assert.ok(worker.log.some(({ msg }) => String(msg).startsWith('given back after')));
  assert.deepEqual(
    worker.log.filter(({ level }) => level !== 'info'),
    [],
  );
});
