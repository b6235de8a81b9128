import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image, untilAborted } from './scripted-unpacker.ts';

const fixture = queueFixture({ persistent: true });

test('a job that runs during a restart of Redis completes once, and the outage gives two log lines', async () => {
  const settings = fixture.settings({ UNPACK_LOCK: '30s' });
  const queue = fixture.producer(settings);
  const gate = Promise.withResolvers<void>();
  let calls = 0;
  const worker = await fixture.worker(settings, async ({ onResolved }) => {
    calls++;
    onResolved?.([image('applying')]);
    await gate.promise;
    return [image('applied')];
  });
  const job = await queue.add(payload('one'));
  await eventually('the job runs', () => calls === 1);
  await fixture.redis.kill();
  await eventually('the worker has noticed', () =>
    worker.log.some(({ msg }) => /^Redis is unreachable/.test(String(msg))),
  );
  // long enough for several tries to connect
  await sleep(700);
  await fixture.redis.restart();
  gate.resolve();
  const status = await eventually('the job has ended', async () => {
    const now = await queue.status(job.id).catch(() => undefined);
    return now?.state === 'completed' && now;
  });
  assert.deepEqual([calls, status.attemptsMade, status.result?.attempts], [1, 1, 1]);
  const lines = worker.log.map(({ msg }) => String(msg)).filter((line) => line.includes('Redis'));
  assert.deepEqual(
    lines.map((line) => line.slice(0, 20)),
    ['Redis is unreachable', 'Redis is back'],
  );

  const next = await queue.add(payload('two'));
  assert.equal((await queue.wait(next)).attempts, 1);
});

test('a worker that starts before Redis takes jobs when Redis starts', async () => {
  const settings = fixture.settings();
  await fixture.redis.kill();
  const starting = fixture.worker(settings, () => [image('applied')]);
  await sleep(200);
  await fixture.redis.restart();
  await starting;
  const queue = fixture.producer(settings);
  assert.equal((await queue.wait(await queue.add(payload('one')))).attempts, 1);
});

test('the lock of a long job is renewed', async () => {
  const settings = fixture.settings({ UNPACK_LOCK: '4s' });
  const queue = fixture.producer(settings);
  const gate = Promise.withResolvers<void>();
  let calls = 0;
  const slow = async () => {
    calls++;
    await gate.promise;
    return [image('applied')];
  };
  await fixture.worker(settings, slow);
  await fixture.worker(settings, slow);
  const job = await queue.add(payload('one'));
  const bull = fixture.bull(settings);
  const client = new Redis(fixture.redis.url);
  fixture.onEnd(() => client.disconnect());
  let last = Number.POSITIVE_INFINITY;
  let renewals = 0;
  await eventually('the lock was renewed twice', async () => {
    const left = await client.pttl(bull.toKey(`${job.id}:lock`));
    if (left > last) renewals++;
    if (left > 0) last = left;
    return renewals >= 2;
  });
  gate.resolve();
  await queue.wait(job);
  assert.equal(calls, 1);
});

test('a worker that has lost the lock on a job stops its work and does not change the job', async () => {
  const settings = fixture.settings({ UNPACK_LOCK: '2s' });
  const queue = fixture.producer(settings);
  const bull = fixture.bull(settings);
  const reasons: unknown[] = [];
  const worker = await fixture.worker(settings, async (call) => {
    if (call.number > 1) return [image('applied')];
    return untilAborted(call).catch((error: unknown) => {
      reasons.push(call.signal?.reason);
      throw error;
    });
  });
  const job = await queue.add(payload('one'));
  await eventually('the job runs', async () => (await queue.status(job.id)).progress?.phase === 'unpacking');
  const client = await bull.getBackend().client;
  // what a long pause of this worker and a faster one look like from here
  await client.set(bull.toKey(`${job.id}:lock`), 'another-worker', { PX: 3000 });
  await eventually('the work was stopped', () => reasons.length === 1);
  assert.match(String(reasons[0]), /LockLostError/);
  // nobody holds it for real, so it stalls and comes back
  assert.equal((await queue.wait(job)).attempts, 1);
  assert.deepEqual((await queue.status(job.id)).progress?.failures, []);
  assert.ok(worker.log.some(({ msg }) => /the lock on the job is lost/.test(String(msg))));
});
