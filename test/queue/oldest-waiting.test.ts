import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { oldestWaiting } from '../../src/queue/oldest-waiting.ts';
import { queueFixture } from './queue-fixture.ts';

const fixture = queueFixture();

function openQueue() {
  const settings = fixture.settings();
  const queue = fixture.bull(settings);
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  return { queue, redis, oldest: () => oldestWaiting(redis, queue) };
}

test('without a waiting job there is no oldest one', async () => {
  assert.equal(await openQueue().oldest(), undefined);
});

test('the oldest of the jobs that wait, have a priority and are delayed is found', async () => {
  const { queue, oldest } = openQueue();
  const add = (name: string, timestamp: number, more: object = {}) =>
    queue.add('unpack', {}, { jobId: name, timestamp, ...more });
  await add('waits', 50_000);
  await add('waits-later', 60_000);
  assert.deepEqual(await oldest(), { id: 'waits', added: 50_000, ready: 50_000 });
  await add('urgent', 45_000, { priority: 1 });
  await add('starves', 40_000, { priority: 2_097_151 });
  await add('starves-later', 41_000, { priority: 2_097_151 });
  await add('middle', 42_000, { priority: 7 });
  assert.equal((await oldest())?.id, 'starves');
  await add('middle-oldest', 39_000, { priority: 7 });
  // within a priority, BullMQ takes the jobs in the order in which they came, so the first one is taken as the oldest
  assert.equal((await oldest())?.id, 'starves');
  await add('planned', 1000, { delay: Date.now() });
  assert.equal((await oldest())?.id, 'starves', 'a delay that the producer has set is not waiting');
  await add('planned-and-late', 1000, { delay: 20_000 });
  assert.deepEqual(await oldest(), { id: 'planned-and-late', added: 1000, ready: 21_000 });
});

test('a job that went back to the front, and one with options that are no JSON, hide no older one', async () => {
  const { queue, redis, oldest } = openQueue();
  await queue.add('unpack', {}, { jobId: 'old', timestamp: 1000 });
  await queue.add('unpack', {}, { jobId: 'front', timestamp: 9000, lifo: true });
  await queue.add('unpack', {}, { jobId: 'odd', timestamp: 5000, lifo: true });
  await redis.hset(queue.toKey('odd'), 'opts', '{');
  assert.equal((await oldest())?.id, 'old');
});

test('with 100,000 jobs it takes Redis a few milliseconds at most', async () => {
  const { queue, redis, oldest } = openQueue();
  const fill = `for i = 1, 100000 do
    local id = 'j' .. i
    redis.call('HSET', ARGV[1] .. id, 'timestamp', 1000 + i, 'opts', '{"delay":0}')
    if i % 2 == 0 then redis.call('LPUSH', KEYS[1], id)
    else redis.call('ZADD', KEYS[2], string.format('%.0f', (i % 1000 + 1) * 4294967296 + i), id) end
  end`;
  await redis.eval(fill, 2, queue.toKey('wait'), queue.toKey('prioritized'), queue.toKey(''));
  assert.ok((await oldest()) !== undefined);
  // the fastest of several, because a busy machine can interrupt Redis in any of them
  let fastest = Number.POSITIVE_INFINITY;
  for (let times = 0; times < 20; times++) {
    await redis.config('RESETSTAT');
    await oldest();
    const [, microseconds] = /cmdstat_eval:calls=1,usec=(\d+)/.exec(await redis.info('commandstats')) ?? [];
    fastest = Math.min(fastest, Number(microseconds));
  }
  assert.ok(fastest < 20_000, `${fastest} µs`);
});
