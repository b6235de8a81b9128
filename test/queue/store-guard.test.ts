import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UnpackError } from '../../src/errors.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';

const fixture = queueFixture();
const broken = (): UnpackError => new UnpackError('STORE_FAILED', 'EIO: the disk is gone');

test('a job is given back three times because of a faulty store, and then its attempts count', async () => {
  const settings = fixture.settings({ UNPACK_JOBS: '1' });
  const queue = fixture.producer(settings);
  let probes = 0;
  const worker = await fixture.worker(
    settings,
    () => {
      throw broken();
    },
    {
      keeper: {
        // in order at the start and whenever it is waited for, and broken whenever a job has failed
        async check() {
          probes++;
          if (probes % 2 === 0) throw broken();
        },
      },
    },
  );
  const job = await queue.add(payload('poison'), { attempts: 1 });
  await assert.rejects(queue.wait(job, { timeout: 60_000 }), { code: 'STORE_FAILED' });
  const { attemptsMade, progress } = await queue.status(job.id);
  assert.deepEqual([attemptsMade, progress?.storeFaults, progress?.failures.length], [1, 3, 1]);
  const said = (text: string) => worker.log.filter(({ msg }) => String(msg).includes(text)).length;
  assert.equal(said('given back, not counted as an attempt'), 3);
  await eventually('it takes jobs again', () => said('the store can be written again') === 4);
});

test('a job that is too large for a sound disk fails normally', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const worker = await fixture.worker(
    settings,
    () => {
      throw new UnpackError('STORE_FULL', 'no space left');
    },
    { keeper: {} },
  );
  const job = await queue.add(payload('large'), { attempts: 2 });
  await assert.rejects(queue.wait(job, { timeout: 60_000 }), { code: 'STORE_FULL' });
  const { attemptsMade, progress } = await queue.status(job.id);
  assert.deepEqual([attemptsMade, progress?.storeFaults], [2, undefined]);
  assert.equal(await worker.whyNotReady(), undefined);
});

test('a worker with a faulty store takes no job, not even one whose image exists, and says why', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  let isBroken = true;
  let leftovers = 0;
  const worker = await fixture.worker(settings, () => [image('applied')], {
    recall: async () => [image('existed')],
    keeper: {
      async tidy() {
        leftovers++;
      },
      async check() {
        if (isBroken) throw broken();
      },
    },
  });
  const reason = await worker.whyNotReady();
  assert.equal(reason, 'takes no jobs until the store can be written: EIO: the disk is gone');
  const jobs = await queue.addBulk(['one', 'two', 'three'].map((name) => ({ payload: payload(name) })));
  await eventually('it has probed again, twice', () => leftovers >= 2);
  assert.deepEqual({ ...(await queue.counts()) }, { ...(await queue.counts()), waiting: 3, active: 0 });
  isBroken = false;
  for (const job of jobs) assert.equal((await queue.wait(job, { timeout: 60_000 })).attempts, 1);
  assert.equal(await worker.whyNotReady(), undefined);
  const lines = worker.log.filter(({ msg }) => String(msg).startsWith('takes no more jobs'));
  assert.deepEqual(
    lines.map(({ level }) => level),
    ['error'],
  );
});

test('jobs that arrive while the worker stops taking jobs keep their places', async () => {
  const settings = fixture.settings({ UNPACK_JOBS: '3' });
  const queue = fixture.producer(settings);
  let isBroken = false;
  const order: string[] = [];
  const names = ['one', 'two', 'three', 'four', 'five'];
  const jobs = [];
  for (const name of names) jobs.push(await queue.add(payload(name), { attempts: 1 }));
  await fixture.worker(
    settings,
    async ({ bucket, number }) => {
      if (number === 1 && ['one', 'two', 'three'].includes(bucket)) {
        isBroken = true;
        throw broken();
      }
      order.push(bucket);
      return [image('applied')];
    },
    {
      keeper: {
        async tidy() {
          // probed again after a second: mended by then
          setTimeout(() => {
            isBroken = false;
          }, 300);
        },
        async check() {
          if (isBroken) throw broken();
        },
      },
    },
  );
  for (const job of jobs) assert.equal((await queue.wait(job, { timeout: 60_000 })).attempts, 1);
  assert.deepEqual(order, names);
});
