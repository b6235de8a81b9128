import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { UnpackError } from '../../src/errors.ts';
import { failedJobs, failuresSince, oldestWaitingJob } from '../../src/queue/overview.ts';
import { payload, queueFixture } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';

const fixture = queueFixture();

function opened() {
  const settings = fixture.settings();
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  return { settings, redis, queue: fixture.bull(settings), producer: fixture.producer(settings) };
}

test('an empty queue has no oldest job, no workers and no failures', async () => {
  const { producer } = opened();
  assert.deepEqual(await producer.overview(), {
    counts: { waiting: 0, prioritized: 0, delayed: 0, active: 0, completed: 0, failed: 0 },
    paused: false,
    oldestWaiting: undefined,
    workers: [],
    failuresOfLastHour: [],
  });
});

test('the oldest job is named with its image', async () => {
  const { queue, redis, producer } = opened();
  for (let number = 0; number < 20; number += 1)
    await queue.add('unpack', payload('many'), { timestamp: 9000 + number });
  const job = await queue.add('unpack', payload('low'), { timestamp: 8000, priority: 2_000_000 });
  await queue.add('unpack', payload('later'), { timestamp: 7000, delay: 3_600_000 });
  assert.deepEqual(await oldestWaitingJob(queue, redis), {
    id: job.id,
    image: 'registry.example/low:1',
    added: new Date(8000),
    ready: new Date(8000),
  });
  assert.deepEqual((await producer.overview()).counts, {
    waiting: 20,
    prioritized: 1,
    delayed: 1,
    active: 0,
    completed: 0,
    failed: 0,
  });
});

test('failures are counted by code, also those of BullMQ itself and more than one page', async () => {
  const { settings, redis, queue, producer } = opened();
  await fixture.worker(settings, ({ bucket }) => {
    if (bucket === 'good') return [image('applied')];
    throw new UnpackError('MANIFEST_INVALID', 'the manifest is wrong');
  });
  const jobs = await producer.addBulk(
    ['one', 'two', 'good'].map((bucket) => ({ payload: payload(bucket), options: { attempts: 1 } })),
  );
  await Promise.allSettled(jobs.map((job) => producer.wait(job)));
  const now = Date.now();
  const pipeline = redis.pipeline();
  for (let number = 0; number < 2100; number += 1) {
    pipeline.hset(queue.toKey(`other-${number}`), 'failedReason', 'job stalled more than allowable limit');
    pipeline.zadd(queue.toKey('failed'), now, `other-${number}`);
  }
  await pipeline.exec();
  assert.deepEqual((await producer.overview()).failuresOfLastHour, [
    { code: 'INTERNAL', count: 2100 },
    { code: 'MANIFEST_INVALID', count: 2 },
  ]);
  assert.deepEqual(await failuresSince(queue, redis, now + 3_600_000), []);
  const pages: number[] = [];
  for await (const page of failedJobs(queue, redis, 0, now + 3_600_000)) pages.push(page.length);
  assert.deepEqual(pages, [1000, 1000, 102]);
});
