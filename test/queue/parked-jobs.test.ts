import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { ChainId } from '../../src/oci/digest.ts';
import type { LockWait } from '../../src/rootfs/lock-waits.ts';
import { runCli } from '../cli/run-cli.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { type Call, digest, image, type ScriptedStore, untilAborted } from './scripted-unpacker.ts';

const fixture = queueFixture();

const holder = { pid: 4711, host: 'elsewhere', worker: 'frozen', job: 'j', since: '2026-01-01T00:00:00.000Z' };
const wait: LockWait = { chainId: digest(100) as ChainId, holder };

/** A layer that another process has locked until `free` is called. Jobs whose bucket begins with `base` need it. */
function lockedLayer(): { store: ScriptedStore; script: (call: Call) => Promise<never>; free(): void; done: string[] } {
  let locked = true;
  const done: string[] = [];
  const script = (call: Call) => {
    if (locked && call.bucket.startsWith('base')) {
      call.onBlocked?.(wait);
      return untilAborted(call);
    }
    done.push(call.bucket);
    // scripts that end give images, those that are aborted nothing
    return [image('applied')] as unknown as Promise<never>;
  };
  const store = { keeper: { heldElsewhere: () => (locked ? wait : undefined) } };
  const free = (): void => {
    locked = false;
  };
  return { store, script, free, done };
}

test('a job that waits for the lock of another process is parked, and runs before jobs that were added later', async () => {
  const settings = fixture.settings({ UNPACK_JOBS: '1' });
  const queue = fixture.producer(settings);
  const { store, script, free, done } = lockedLayer();
  const waiting = [];
  for (const name of ['base-1', 'base-2', 'base-3']) waiting.push(await queue.add(payload(name)));
  await fixture.worker(settings, script, store);
  await queue.wait(await queue.add(payload('other')), { timeout: 60_000 });
  for (const { id } of waiting) {
    const status = await eventually('it is parked', async () => {
      const found = await queue.status(id);
      return found.state === 'delayed' && found;
    });
    assert.deepEqual([status.attemptsMade, status.failure], [0, undefined]);
    assert.deepEqual(status.progress?.waiting?.holder, holder);
    assert.equal((await queue.add(payload(`base-${waiting.findIndex((job) => job.id === id) + 1}`))).id, id);
  }
  const env = { REDIS_URL: settings.REDIS_URL, UNPACK_QUEUE: settings.UNPACK_QUEUE };
  const { stdout } = await runCli(['status', waiting[0]?.id ?? ''], { env });
  assert.match(
    stdout,
    /state {2}delayed\n.*\nwaits for the layer of chain ID sha256:\w+….*: process 4711 on elsewhere \(worker frozen, job j\) has locked it since 2026-01-01\S+; the job has waited since \S+, and is tried again at \S+ or when the layer is free\n/,
  );
  const later = await queue.addBulk(['later-1', 'later-2', 'later-3'].map((name) => ({ payload: payload(name) })));
  free();
  const results = await Promise.all([...waiting, ...later].map((job) => queue.wait(job, { timeout: 60_000 })));
  assert.deepEqual(
    results.map(({ attempts }) => attempts),
    [1, 1, 1, 1, 1, 1],
  );
  assert.deepEqual(
    done.filter((name) => name.startsWith('base')),
    ['base-1', 'base-2', 'base-3'],
  );
  const { logs } = await fixture.bull(settings).getJobLogs(waiting[0]?.id ?? '');
  assert.match(
    logs.join('\n'),
    /WARN waits for the layer of chain ID .*: process 4711 on elsewhere \(worker frozen, job j\)/,
  );
});

for (const priority of [undefined, 7]) {
  const kind = priority === undefined ? 'without a priority' : 'with one';
  test(`parked jobs ${kind} return to the front in their order, even if their worker has ended`, async () => {
    const settings = fixture.settings({ UNPACK_JOBS: '4' });
    const queue = fixture.producer(settings);
    const options = priority === undefined ? {} : { priority };
    const { store, script } = lockedLayer();
    const names = ['base-1', 'base-2', 'base-3', 'base-4'];
    const parked = await queue.addBulk(names.map((name) => ({ payload: payload(name), options })));
    const worker = await fixture.worker(settings, script, store);
    await eventually('all are parked', async () => (await queue.counts()).delayed === 4);
    await worker.close();
    // their time comes while nobody is there: BullMQ puts them to the end as soon as a worker asks for a job
    const bull = fixture.bull(settings);
    const client = new Redis(settings.REDIS_URL);
    fixture.onEnd(() => client.disconnect());
    for (const { id } of parked) await client.zadd(bull.toKey('delayed'), 0, id);
    const done: string[] = [];
    const later = await queue.addBulk(
      ['later-1', 'later-2', 'later-3'].map((name) => ({ payload: payload(name), options })),
    );
    await client.hset(bull.toKey('meta'), { paused: '1' });
    await fixture.worker(fixture.settings({ UNPACK_QUEUE: settings.UNPACK_QUEUE, UNPACK_JOBS: '1' }), ({ bucket }) => {
      done.push(bucket);
      return [image('applied')];
    });
    await eventually('they are back', async () => (await client.zcard(bull.toKey('parked'))) === 0);
    await bull.resume();
    await Promise.all([...parked, ...later].map((job) => queue.wait(job, { timeout: 60_000 })));
    assert.deepEqual(done, [...names, 'later-1', 'later-2', 'later-3']);
  });
}

test('layers that a job applied before it was parked count as applied in its result', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const lock = { chainId: digest(102) as ChainId, holder };
  let locked = true;
  const script = (call: Call) => {
    const layers = (phases: Parameters<typeof image>) => {
      const one = image(...phases);
      call.onResolved?.([one]);
      return one;
    };
    if (call.number === 1) {
      layers(['existed', 'applied', 'waiting']);
      call.onBlocked?.(lock);
      return untilAborted(call, [image('existed', 'applied', 'waiting')]) as Promise<never>;
    }
    return [layers(['existed', 'existed', 'applied'])] as unknown as Promise<never>;
  };
  const store = { keeper: { heldElsewhere: () => (locked ? lock : undefined) } };
  const job = await queue.add(payload('base'));
  await fixture.worker(settings, script, store);
  await eventually('it is parked', async () => (await queue.status(job.id)).state === 'delayed');
  locked = false;
  const result = await queue.wait(job, { timeout: 60_000 });
  const states = result.images[0]?.layers.map(({ state, entries }) => [state, entries]);
  assert.deepEqual(states, [
    ['existed', undefined],
    ['applied', 7],
    ['applied', 7],
  ]);
});

test('a parked job is cancelled at once', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const { store, script } = lockedLayer();
  const job = await queue.add(payload('base'));
  await fixture.worker(settings, script, store);
  await eventually('it is parked', async () => (await queue.status(job.id)).state === 'delayed');
  assert.equal(await queue.cancel(job.id), true);
  await assert.rejects(queue.wait(job, { timeout: 60_000 }), { code: 'CANCELLED' });
});

test('pauses grow, and count towards UNPACK_JOB_TIMEOUT', async () => {
  const settings = fixture.settings({ UNPACK_JOB_TIMEOUT: '9s' });
  const queue = fixture.producer(settings);
  const { store, script } = lockedLayer();
  const began = Date.now();
  const job = await queue.add(payload('base'), { attempts: 1 });
  const worker = await fixture.worker(settings, script, store);
  const untils: number[] = [];
  let since = 0;
  const ended = queue.wait(job, {
    timeout: 60_000,
    onProgress: ({ waiting }) => {
      if (waiting === undefined || waiting.times <= untils.length) return;
      untils.push(waiting.until);
      since = waiting.since;
    },
  });
  await assert.rejects(ended, {
    code: 'TIMED_OUT',
    message: /longer than 9 s .*; for [\d.]+ s it waited for the layer/,
  });
  assert.ok(Date.now() - began >= 9000);
  const [first = 0, second = 0] = untils;
  assert.equal(first - since, 2000);
  assert.ok(second - first > 3000, `${untils}`);
  const { attemptsMade, progress } = await queue.status(job.id);
  assert.deepEqual([attemptsMade, progress?.waiting], [1, undefined]);
  const lines = worker.log.filter(({ msg }) => String(msg).startsWith('waits for'));
  assert.equal(lines.length, 1, 'whom it waits for is said once');
});

test('a night without workers does not count as waiting for a lock', async () => {
  const settings = fixture.settings({ UNPACK_JOB_TIMEOUT: '60s' });
  const queue = fixture.producer(settings);
  const { store, script } = lockedLayer();
  const job = await queue.add(payload('base'), { attempts: 1 });
  const worker = await fixture.worker(settings, script, store);
  await eventually('it is parked', async () => (await queue.status(job.id)).state === 'delayed');
  await worker.close();
  const bull = fixture.bull(settings);
  const found = await bull.getJob(job.id);
  const { progress } = await queue.status(job.id);
  const night = 8 * 3_600_000;
  const waiting = progress?.waiting;
  assert.ok(waiting && found);
  const earlier = { started: waiting.started - night, since: waiting.since - night, until: waiting.until - night };
  await found.updateProgress({ ...progress, waiting: { ...waiting, ...earlier } });
  await fixture.worker(settings, async () => {
    await sleep(10);
    return [image('applied')];
  });
  assert.equal((await queue.wait(job, { timeout: 60_000 })).attempts, 1);
});
