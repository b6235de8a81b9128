import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startRedis } from '../../dev/redis-server.ts';
import { JobNotFoundError, QueueUnavailableError, WaitTimeoutError } from '../../src/queue/errors.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import { eventually, payload, queueFixture, testSettings } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';

const fixture = queueFixture();

test('the result has the images, the worker and the store', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await fixture.worker(settings, () => [{ ...image('existed', 'applied'), warnings: ['1 socket was left out'] }]);
  const before = Date.now();
  const result = await queue.wait(await queue.add(payload('one')));
  const took = Date.now() - before;
  const { startedAt, durationMs, worker, ...rest } = result;
  assert.ok(Date.parse(startedAt) >= before && durationMs <= took + 1, `${startedAt}, ${durationMs} of ${took} ms`);
  assert.equal(worker.name, 'worker-1');
  const [existed, applied] = rest.images[0]?.layers ?? [];
  assert.equal(existed?.state, 'existed');
  assert.equal(existed?.entries, undefined);
  assert.deepEqual(applied?.timings, { fetchMs: 1, decompressMs: 2, writeMs: 3, totalMs: 7 });
  assert.deepEqual([applied?.compressedBytes, applied?.uncompressedBytes, applied?.entries], [1000, 4000, 7]);
  assert.deepEqual(rest.store, { root: '/store', snapshotter: 'overlay' });
  assert.deepEqual(
    [rest.attempts, rest.image, rest.warnings],
    [1, 'registry.example/one:1', ['1 socket was left out']],
  );
});

test('a wrong payload is refused before it is added', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await assert.rejects(queue.add(payload('one', { source: { bucket: '', layout: 'oci' } })), { code: 'INVALID_JOB' });
  assert.equal((await queue.counts()).waiting, 0);
});

test('the same work gives one job while it waits or runs, and a new job afterwards', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const first = await queue.add(payload('same'));
  assert.deepEqual(await queue.add(payload('same', { labels: { another: 'label' } })), {
    id: first.id,
    deduplicated: true,
  });
  const gate = Promise.withResolvers<void>();
  await fixture.worker(settings, async () => {
    await gate.promise;
    return [image('applied')];
  });
  await eventually('the job runs', async () => (await queue.status(first.id)).state === 'active');
  assert.deepEqual(await queue.add(payload('same')), { id: first.id, deduplicated: true });
  gate.resolve();
  await queue.wait(first);
  const again = await queue.add(payload('same'));
  assert.equal(again.deduplicated, false);
  assert.notEqual(again.id, first.id);
});

test('the same work is added twice if deduplicate is false', async () => {
  const queue = fixture.producer(fixture.settings());
  const first = await queue.add(payload('same'));
  assert.notEqual((await queue.add(payload('same'), { deduplicate: false })).id, first.id);
});

test('several jobs are added at once, and those that existed are marked', async () => {
  const queue = fixture.producer(fixture.settings());
  await queue.add(payload('two'));
  const handles = await queue.addBulk([
    { payload: payload('one') },
    { payload: payload('two') },
    { payload: payload('one') },
  ]);
  assert.deepEqual(
    handles.map(({ deduplicated }) => deduplicated),
    [false, true, true],
  );
});

test('jobs run by priority, and jobs without a priority run first', async () => {
  const settings = fixture.settings({ UNPACK_JOBS: '1' });
  const queue = fixture.producer(settings);
  const handles = [
    await queue.add(payload('late'), { priority: 9 }),
    await queue.add(payload('soon'), { priority: 1 }),
    await queue.add(payload('now')),
  ];
  const order: string[] = [];
  await fixture.worker(settings, ({ bucket }) => {
    order.push(bucket);
    return [image('existed')];
  });
  await Promise.all(handles.map((handle) => queue.wait(handle)));
  assert.deepEqual(order, ['now', 'soon', 'late']);
});

test('a delayed job waits for its time', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const before = Date.now();
  const job = await queue.add(payload('later'), { delay: 300 });
  // without a worker it stays so
  assert.equal((await queue.status(job.id)).state, 'delayed');
  await fixture.worker(settings, () => [image('existed')]);
  await queue.wait(job);
  assert.ok(Date.now() - before >= 300);
});

test('wait reports the progress', async () => {
  const told = Promise.withResolvers<void>();
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await fixture.worker(settings, async ({ onResolved }) => {
    const state = image('applied', 'applying');
    onResolved?.([state]);
    await told.promise;
    return [image('applied', 'applied')];
  });
  const seen: string[] = [];
  await queue.wait(await queue.add(payload('one')), {
    onProgress: ({ phase, layersDone, layersTotal }) => {
      seen.push(`${phase} ${layersDone}/${layersTotal}`);
      if (phase === 'unpacking') told.resolve();
    },
  });
  assert.ok(seen.includes('unpacking 1/2'), seen.join());
});

test('wait ends with a typed error if the job does not exist, takes too long, or the signal is aborted', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await assert.rejects(queue.wait('no-such-job'), JobNotFoundError);
  const job = await queue.add(payload('never'));
  await assert.rejects(queue.wait(job, { timeout: 50 }), WaitTimeoutError);
  const stop = new AbortController();
  const waiting = assert.rejects(queue.wait(job, { signal: stop.signal }), /enough/);
  stop.abort(new Error('enough'));
  await waiting;
  const closing = assert.rejects(queue.wait(job), QueueUnavailableError);
  await queue.close();
  await closing;
});

test('wait returns the result of a job that is removed as soon as it ends', async () => {
  const settings = fixture.settings({ UNPACK_KEEP_COMPLETED: '0', UNPACK_KEEP_FAILED: '0' });
  const queue = fixture.producer(settings);
  await fixture.worker(settings, async ({ bucket }) => {
    await sleep(50);
    if (bucket === 'bad') throw new Error('scripted');
    return [image('applied')];
  });
  assert.equal((await queue.wait(await queue.add(payload('good')))).attempts, 1);
  await assert.rejects(queue.wait(await queue.add(payload('bad'), { attempts: 1 })), { code: 'INTERNAL' });
});

test('without Redis every call fails and none hangs', async () => {
  // nothing listens on the port of a server that has ended
  const gone = await startRedis();
  await gone.stop();
  const queue = new UnpackQueue(testSettings(gone.url), 300);
  await assert.rejects(queue.add(payload('one')), {
    name: 'QueueUnavailableError',
    message: /^Redis at redis:\/\/127\.0\.0\.1:\d+ is not available: /,
  });
  await assert.rejects(queue.status('1'), QueueUnavailableError);
  await assert.rejects(queue.wait('1'), QueueUnavailableError);
  await assert.rejects(queue.cancel('1'), QueueUnavailableError);
  await queue.close();
});

test('a Redis that accepts connections but never answers is reported, too', async () => {
  const redis = await startRedis();
  const patient = new UnpackQueue(testSettings(redis.url), 60_000);
  const job = await patient.add(payload('one'));
  await patient.close();
  const queue = new UnpackQueue(testSettings(redis.url), 400);
  process.kill(redis.pid, 'SIGSTOP');
  await assert.rejects(queue.add(payload('two')), QueueUnavailableError);
  await assert.rejects(queue.wait(job), QueueUnavailableError);
  process.kill(redis.pid, 'SIGCONT');
  await queue.close();
  await redis.stop();
});

test('a job that could not be added because of Redis does not appear later', async () => {
  const redis = await startRedis({ persistent: true });
  const settings = testSettings(redis.url);
  const queue = new UnpackQueue(settings, 60_000);
  await queue.add(payload('one'));
  await redis.kill();
  const hasty = new UnpackQueue(settings, 300);
  await assert.rejects(hasty.add(payload('two')), QueueUnavailableError);
  await redis.restart();
  await eventually('Redis answers again', () =>
    queue.counts().then(
      () => true,
      () => false,
    ),
  );
  assert.equal((await queue.counts()).waiting, 1);
  await hasty.close();
  await queue.close();
  await redis.stop();
});
