import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { patientConnection } from '../../src/queue/connection.ts';
import type { WorkerRecord } from '../../src/queue/formats.ts';
import { Heartbeat, unlessSlow } from '../../src/queue/heartbeat.ts';
import { RECORD_LIFE, readWorkers, SILENT_AFTER, type WorkerView, workerKey } from '../../src/queue/worker-presence.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';
import { startWorkerProcess } from './start-worker-process.ts';

const fixture = queueFixture();

const RECORD: WorkerRecord = {
  version: 1,
  name: 'worker-1',
  host: 'here',
  pid: 1,
  started: 0,
  state: 'ready',
  store: { root: '/store', snapshotter: 'overlay' },
  slots: 1,
  lock: 30_000,
  running: 0,
  jobs: [],
};

function readerOf(settings: ReturnType<typeof fixture.settings>) {
  const queue = fixture.bull(settings);
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  return { queue, redis, workers: () => readWorkers(redis, queue) };
}

/** Waits for a worker whose record fulfils the condition. Heartbeats are ten seconds apart, so tests cause one by `beat`. */
async function workerThat(
  what: string,
  workers: () => Promise<WorkerView[]>,
  condition: (worker: WorkerView) => boolean,
): Promise<WorkerView> {
  return eventually(what, async () => (await workers()).find(condition));
}

test('a running worker has a record, and a worker that stops removes it', async () => {
  const settings = fixture.settings({ UNPACK_WORKER_NAME: 'odd name: "ä" {*}:w:?' });
  const { redis, queue, workers } = readerOf(settings);
  const worker = await fixture.worker(settings, () => [image('applied')]);
  const found = await workerThat('the record', workers, () => true);
  assert.equal(found.name, 'odd name: "ä" {*}:w:?');
  assert.equal(found.state, 'ready');
  assert.equal(found.silent, false);
  assert.equal(found.slots, settings.UNPACK_JOBS);
  assert.deepEqual(found.store, { root: '/store', snapshotter: 'overlay' });
  await worker.close();
  assert.deepEqual(await workers(), []);
  assert.deepEqual(await redis.keys(`${queue.toKey('worker')}*`), []);
});

test('the record of a worker that shuts down names its running jobs', async () => {
  const settings = fixture.settings({ UNPACK_GRACE: '60s' });
  const { workers } = readerOf(settings);
  const running = Promise.withResolvers<void>();
  const end = Promise.withResolvers<void>();
  const worker = await fixture.worker(settings, async (call) => {
    call.onResolved?.([image('applying')]);
    running.resolve();
    await end.promise;
    return [image('applied')];
  });
  const { id } = await fixture.producer(settings).add(payload('slow'));
  await running.promise;
  const closed = worker.close();
  const found = await workerThat('it shuts down', workers, ({ state }) => state === 'closing');
  assert.equal(found.running, 1);
  assert.deepEqual(
    found.jobs.map(({ id, image, phase }) => ({ id, image, phase })),
    [{ id, image: 'registry.example/slow:1', phase: 'unpacking' }],
  );
  end.resolve();
  await closed;
  assert.deepEqual(await workers(), []);
});

test('a worker that was killed is silent after three missed heartbeats, and its record expires', async () => {
  const settings = fixture.settings();
  const { redis, queue, workers } = readerOf(settings);
  await using process = await startWorkerProcess(settings, 'killed');
  const { id } = await workerThat('the record', workers, ({ name }) => name === 'killed');
  process.kill('SIGKILL');
  await process.ended();
  assert.equal((await workers())[0]?.silent, false);
  // the time to live is the age of the record
  await redis.pexpire(workerKey(queue, id), RECORD_LIFE - SILENT_AFTER - 1000);
  const [silent] = await workers();
  assert.equal(silent?.silent, true);
  assert.ok(Math.abs(Date.now() - SILENT_AFTER - 1000 - silent.seen.getTime()) < 60_000);
  await redis.del(workerKey(queue, id));
  assert.deepEqual(await workers(), []);
  // the next heartbeat of any worker forgets its ID
  const other = await fixture.worker(settings, () => [image('applied')]);
  await workerThat('the other record', workers, ({ name }) => name === 'worker-1');
  assert.equal(await redis.zcard(queue.toKey('workers')), 1);
  await other.close();
});

test('heartbeats fail quietly in an outage, and continue after it', async () => {
  const settings = fixture.settings();
  const { queue, workers } = readerOf(settings);
  const redis = patientConnection(settings);
  redis.on('error', () => {});
  const errors: unknown[] = [];
  const onError = (error: unknown) => errors.push(error);
  const heartbeat = new Heartbeat({ redis, queue, record: async () => RECORD, onError });
  await eventually('it is connected', () => redis.status === 'ready');
  heartbeat.beat();
  await eventually('the record', async () => (await workers()).length === 1);
  await fixture.redis.restart();
  await eventually('the data is gone', async () => (await workers().catch(() => undefined))?.length === 0);
  await eventually('it is connected again', () => redis.status === 'ready');
  heartbeat.beat();
  await eventually('the record is back', async () => (await workers()).length === 1);
  await heartbeat.stop();
  assert.deepEqual(await workers(), []);
  assert.deepEqual(errors, []);
  redis.disconnect();
});

test('heartbeats send nothing while the connection is down', async () => {
  const redis = new Redis({ lazyConnect: true, port: 1, maxRetriesPerRequest: null });
  redis.on('error', () => {});
  let asked = 0;
  const record = async () => {
    asked += 1;
    throw new Error('is never called');
  };
  const heartbeat = new Heartbeat({ redis, queue: { toKey: (name) => name }, record, onError: assert.ifError });
  heartbeat.start();
  await heartbeat.stop();
  assert.equal(asked, 0);
  redis.disconnect();
});

test('a record that cannot be read, or of a newer version, is left out', async () => {
  const settings = fixture.settings();
  const { redis, queue, workers } = readerOf(settings);
  for (const [id, text] of [
    ['a', 'no JSON'],
    ['b', '{"version":2}'],
  ] as const) {
    await redis.zadd(queue.toKey('workers'), 1, id);
    await redis.set(workerKey(queue, id), text, 'PX', RECORD_LIFE);
  }
  assert.deepEqual(await workers(), []);
});

test('a read that hangs is given up, and none is started beside it', async () => {
  let reads = 0;
  const read = unlessSlow(() => {
    reads += 1;
    return new Promise<never>(() => {});
  }, 5);
  assert.equal(await read(), undefined);
  assert.equal(await read(), undefined);
  assert.equal(reads, 1);
  assert.equal(
    await unlessSlow(async () => {
      throw new Error('EIO');
    }, 60_000)(),
    undefined,
  );
});
