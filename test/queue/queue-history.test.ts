import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { Heartbeat } from '../../src/queue/heartbeat.ts';
import { historyKey, KEPT, QueueHistory } from '../../src/queue/queue-history.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';

const fixture = queueFixture();
const MINUTE = 60_000;
const NOW = 29_000_000 * MINUTE + 12_345;

function opened() {
  const settings = fixture.settings();
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  const queue = fixture.bull(settings);
  return { settings, redis, queue, producer: fixture.producer(settings), history: new QueueHistory(redis, queue) };
}

test('a minute has the largest numbers that any board has seen in it, and several boards double nothing', async () => {
  const { redis, queue, producer, history } = opened();
  const other = new QueueHistory(redis, queue);
  await producer.addBulk(['one', 'two', 'three'].map((bucket) => ({ payload: payload(bucket) })));
  await producer.add(payload('four'), { priority: 3 });
  await queue.add('unpack', {}, { delay: MINUTE });
  await history.sample(NOW);
  await other.sample(NOW + 1000);
  await queue.drain();
  await other.sample(NOW + 2000);
  assert.deepEqual(await history.largest(1, 1, NOW), [{ waiting: 4, delayed: 1, active: 0 }]);
  await history.sample(NOW + MINUTE);
  const later = NOW + 2 * MINUTE;
  assert.deepEqual(
    (await other.largest(4, 4, later)).map((sample) => sample?.waiting),
    [undefined, 4, 0, undefined],
  );
  assert.deepEqual(
    (await other.largest(4, 2, later)).map((sample) => sample?.waiting),
    [4, 0],
  );
});

test('what was measured a week ago goes, and the key never grows', async () => {
  const { redis, queue, history } = opened();
  for (const minute of [0, KEPT - 1, KEPT, 2 * KEPT + 5]) await history.sample(NOW + minute * MINUTE);
  assert.ok((await redis.strlen(historyKey(queue))) <= KEPT * 16);
  const week = await history.largest(KEPT, KEPT, NOW + (2 * KEPT + 5) * MINUTE);
  assert.deepEqual(
    week.flatMap((sample, index) => (sample === undefined ? [] : [index])),
    [KEPT - 1],
  );
  const left = await redis.pttl(historyKey(queue));
  assert.ok(left > 0 && left <= KEPT * MINUTE);
});

test('the heartbeat of a worker measures, so that a board that was not running shows it', async () => {
  const { redis, queue, producer, history } = opened();
  await producer.add(payload('one'));
  const record = async () => {
    throw new Error('is not needed');
  };
  const silent = new Heartbeat({ redis, queue, record, onError: () => {} });
  silent.beat();
  await silent.stop();
  assert.deepEqual(await history.largest(1, 1, Date.now()), [undefined], 'without a record nothing is written');
  const began = Date.now();
  const beats = new Heartbeat({
    redis,
    queue,
    record: async () => ({
      version: 1,
      name: 'worker',
      host: 'here',
      pid: 1,
      started: 0,
      state: 'ready',
      store: { root: '/store', snapshotter: 'overlay' },
      slots: 1,
      lock: 1,
      running: 0,
      jobs: [],
    }),
    onError: assert.ifError,
  });
  fixture.onEnd(() => beats.stop());
  beats.beat();
  await eventually('it is measured', async () => {
    const minutes = Math.ceil((Date.now() - began) / MINUTE) + 1;
    return (await history.largest(minutes, 1, Date.now()))[0]?.waiting === 1;
  });
});
