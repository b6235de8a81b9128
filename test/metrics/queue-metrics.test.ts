import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { startRedis } from '../../dev/redis-server.ts';
import { startBoard } from '../../src/board/board.ts';
import { UnpackError } from '../../src/errors.ts';
import { createLog } from '../../src/queue/log.ts';
import { RECORD_LIFE, SILENT_AFTER, workerKey, workersKey } from '../../src/queue/worker-presence.ts';
import { eventually, payload, queueFixture } from '../queue/queue-fixture.ts';
import { metricValue } from './metric-values.ts';

const fixture = queueFixture();
const silent = createLog({ UNPACK_LOG_LEVEL: 'silent', UNPACK_LOG_FORMAT: 'json' });

test('the board serves the jobs by state, the age of the oldest one and the workers', async () => {
  const settings = fixture.settings({ UNPACK_BOARD_PORT: '0' });
  const queue = fixture.producer(settings);
  await fixture.bull(settings).add('unpack', {}, { timestamp: Date.now() - 100_000, priority: 9 });
  await queue.add(payload('one'));
  await queue.add(payload('two'), { delay: 3_600_000 });
  const board = await startBoard(settings, silent);
  fixture.onEnd(() => board.close());
  const page = async () => (await fetch(`${board.url}/metrics`)).text();
  await eventually('the queue is read', async () => {
    return metricValue(await page(), 'unpackd_scrape_part_success', { part: 'queue' }) === 1;
  });
  const text = await page();
  const jobs = (state: string) => metricValue(text, 'unpackd_queue_jobs', { state });
  assert.deepEqual(
    ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'].map(jobs),
    [1, 1, 1, 0, 0, 0],
  );
  const age = metricValue(text, 'unpackd_queue_oldest_waiting_seconds') ?? 0;
  assert.ok(age >= 100 && age < 200, `${age} s`);
  assert.equal(metricValue(text, 'unpackd_queue_paused'), 0);
  const workers = (text: string) =>
    ['ready', 'faulty', 'closing', 'silent'].map((state) => metricValue(text, 'unpackd_queue_workers', { state }));
  assert.deepEqual(workers(text), [0, 0, 0, 0]);
  assert.equal(metricValue(text, 'unpackd_queue_slots'), 0);

  const worker = await fixture.worker(settings, () => []);
  await eventually('the first job fails, because its payload is empty, and the second one completes', async () => {
    const text = await page();
    const finished = (outcome: string) => metricValue(text, 'unpackd_queue_jobs_finished_total', { outcome });
    return finished('completed') === 1 && finished('failed') === 1;
  });
  assert.deepEqual(workers(await page()), [1, 0, 0, 0]);
  assert.equal(metricValue(await page(), 'unpackd_queue_slots'), settings.UNPACK_JOBS);
  assert.equal(metricValue(await page(), 'unpackd_queue_oldest_waiting_seconds'), 0, 'a planned job does not wait');
  await worker.close();
  assert.deepEqual(workers(await page()), [0, 0, 0, 0], 'a worker that ends is no worker any more');
});

test('workers are counted by state: those that cannot write their store, and those that are silent', async () => {
  const settings = fixture.settings({ UNPACK_BOARD_PORT: '0' });
  const board = await startBoard(settings, silent);
  fixture.onEnd(() => board.close());
  const count = async (state: string) =>
    metricValue(await (await fetch(`${board.url}/metrics`)).text(), 'unpackd_queue_workers', { state });
  const check = async () => {
    throw new UnpackError('STORE_FAILED', 'the disk is read-only');
  };
  await fixture.worker(settings, () => [], { keeper: { check } });
  await eventually('the faulty worker is counted', async () => (await count('faulty')) === 1);
  assert.equal(await count('ready'), 0);

  const queue = fixture.bull(settings);
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  const [id = ''] = await redis.zrange(workersKey(queue), '0', '0');
  await eventually('the silent worker is counted', async () => {
    // as if its last heartbeat was that long ago; it can send the next one at any time
    await redis.pexpire(workerKey(queue, id), RECORD_LIFE - SILENT_AFTER - 1000);
    return (await count('silent')) === 1 && (await count('faulty')) === 0;
  });
});

test('while Redis is frozen or down, a scrape ends in time and says which parts are missing', async () => {
  const redis = await startRedis();
  fixture.onEnd(() => redis.stop());
  const settings = fixture.settings({ UNPACK_BOARD_PORT: '0', REDIS_URL: redis.url });
  const board = await startBoard(settings, silent);
  fixture.onEnd(() => board.close());
  const scrape = async () => {
    const response = await fetch(`${board.url}/metrics`, { signal: AbortSignal.timeout(9000) });
    assert.equal(response.status, 200);
    const text = await response.text();
    return {
      success: ['queue', 'oldest', 'workers'].map((part) => metricValue(text, 'unpackd_scrape_part_success', { part })),
      waiting: metricValue(text, 'unpackd_queue_jobs', { state: 'waiting' }),
      memory: metricValue(text, 'process_resident_memory_bytes') ?? 0,
    };
  };
  await eventually('the queue is read', async () => (await scrape()).waiting === 0);

  process.kill(redis.pid, 'SIGSTOP');
  const frozen = await scrape();
  process.kill(redis.pid, 'SIGCONT');
  assert.deepEqual([frozen.success, frozen.waiting], [[0, 0, 0], undefined]);
  assert.ok(frozen.memory > 0);

  await redis.kill();
  await eventually('the outage is shown', async () => (await scrape()).success.every((one) => one === 0));
  assert.equal((await scrape()).waiting, undefined);
  await redis.restart();
  await eventually('the queue is read again', async () => (await scrape()).waiting === 0);
});
