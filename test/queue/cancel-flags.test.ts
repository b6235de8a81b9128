import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CancelFlags } from '../../src/queue/cancel-flags.ts';
import { cancelKey } from '../../src/queue/cancellation.ts';
import { patientConnection } from '../../src/queue/connection.ts';
import { eventually, queueFixture } from './queue-fixture.ts';

const fixture = queueFixture();

/** Waiting jobs `0`, `1`…, of which `0` is taken first, and the CancelFlags of a worker. */
async function waiting(count: number, options: { readonly priority?: number } = {}) {
  const settings = fixture.settings();
  const bull = fixture.bull(settings);
  const names = Array.from({ length: count }, (_, index) => String(index));
  await bull.addBulk(names.map((name) => ({ name: 'unpack', data: {}, opts: { ...options, jobId: `job-${name}` } })));
  const redis = patientConnection({ REDIS_URL: fixture.redis.url });
  fixture.onEnd(() => redis.disconnect());
  const clock = { now: 0 };
  return {
    bull,
    redis,
    clock,
    flags: new CancelFlags(redis, bull, () => clock.now),
    set: (id: string) => redis.set(cancelKey(bull, id), 'why'),
  };
}

for (const [kind, options] of Object.entries({ waiting: {}, prioritized: { priority: 3 } })) {
  test(`reading one flag also reads the flags of the next ${kind} jobs`, async () => {
    const { flags, set } = await waiting(10, options);
    await set('job-3');
    assert.equal(flags.isUnset('job-0'), false, 'nothing is known yet');
    assert.equal(await flags.reason('job-0'), null);
    assert.deepEqual(
      ['job-1', 'job-2', 'job-3', 'job-4', 'job-9', 'another'].map((id) => flags.isUnset(id)),
      [true, true, false, true, true, false],
    );
    assert.equal(await flags.reason('job-3'), 'why');
  });
}

test('an answer that was read ahead is used once, so the flag of a returning job is read again', async () => {
  const { flags, set } = await waiting(3);
  await flags.reason('job-0');
  assert.equal(flags.isUnset('job-1'), true);
  await set('job-1');
  assert.equal(flags.isUnset('job-1'), false);
  assert.equal(await flags.reason('job-1'), 'why');
});

test('an answer that was read ahead expires after a second', async () => {
  const { flags, set, clock } = await waiting(3);
  await flags.reason('job-0');
  await set('job-1');
  clock.now = 1001;
  assert.equal(flags.isUnset('job-1'), false);
  assert.equal(await flags.reason('job-1'), 'why');
});

test('after a cancel message the flag is read, even while a read ahead is pending', async () => {
  const { flags } = await waiting(5);
  await flags.reason('job-0');
  flags.forget('job-1');
  assert.equal(flags.isUnset('job-1'), false);
  const look = flags.reason('job-4-not-known');
  flags.forget('job-2');
  await look;
  assert.equal(flags.isUnset('job-2'), false, 'the answer may be older than the message');
  assert.equal(flags.isUnset('job-3'), true);
});

test('while more jobs wait, the next flags are read before the last answers are used up', async () => {
  const { bull, flags, redis } = await waiting(400);
  await flags.reason('job-0');
  const list = bull.toKey('wait');
  let looked = 0;
  for (let index = 1; index < 400; index++) {
    // as a worker takes them
    await redis.rpop(list);
    const id = `job-${index}`;
    if (!flags.isUnset(id)) {
      looked++;
      await flags.reason(id);
    }
    await eventually('Redis has answered what was asked before', async () => (await redis.ping()) === 'PONG');
  }
  assert.equal(looked, 0);
});

test('clear deletes a flag', async () => {
  const { flags, set } = await waiting(1);
  await set('job-0');
  assert.equal(await flags.reason('job-0'), 'why');
  await flags.clear('job-0');
  assert.equal(await flags.reason('job-0'), null);
});
