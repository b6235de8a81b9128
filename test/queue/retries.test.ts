import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FAILURE_CODES, type FailureCode, UnpackError } from '../../src/errors.ts';
import { backoffDelay } from '../../src/queue/retries.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image, untilAborted } from './scripted-unpacker.ts';

const fixture = queueFixture();

/** Fails with the code in the name of the bucket. */
const failing = ({ bucket }: { bucket: string }): never => {
  throw new UnpackError(bucket as FailureCode, `scripted ${bucket}`, { details: { layerIndex: 1, layerCount: 3 } });
};

const EXPECTED = { never: 1, once: 2, always: 3 };
// these two come from the queue itself and have tests of their own
const own = new Set(['SHUTTING_DOWN', 'STALLED']);
for (const [code, rule] of Object.entries(FAILURE_CODES)) {
  if (own.has(code)) continue;
  test(`${code} is retried ${rule === 'always' ? 'as often as the job has attempts' : rule}`, async () => {
    const settings = fixture.settings();
    const queue = fixture.producer(settings);
    await fixture.worker(settings, failing);
    const job = await queue.add(payload(code), { attempts: 3 });
    await assert.rejects(queue.wait(job), { name: 'UnpackError', code, message: `scripted ${code}` });
    const status = await queue.status(job.id);
    assert.equal(status.attemptsMade, EXPECTED[rule]);
    assert.equal(status.failedReason, `[${code}] scripted ${code}`);
    assert.equal(status.failure?.code, code);
    assert.equal(status.failure?.attempt, EXPECTED[rule]);
    assert.equal(status.failure?.layerIndex, 1);
    assert.equal(status.failure?.retryable, rule === 'always');
    assert.equal(status.progress?.failures.length, EXPECTED[rule]);
  });
}

test('two damaged downloads with different codes are retried only once', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const codes: FailureCode[] = ['BLOB_DIGEST_MISMATCH', 'SOURCE_UNAVAILABLE', 'LAYER_CORRUPT', 'LAYER_CORRUPT'];
  await fixture.worker(settings, ({ number }) => {
    throw new UnpackError(codes[number - 1] ?? 'INTERNAL', 'scripted');
  });
  const job = await queue.add(payload('mixed'));
  await assert.rejects(queue.wait(job), { code: 'LAYER_CORRUPT' });
  assert.equal((await queue.status(job.id)).attemptsMade, 3);
});

test('a job that succeeds in its second attempt keeps the first failure in its history', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await fixture.worker(settings, ({ number }) => {
    if (number === 1) throw new UnpackError('LAYER_CORRUPT', 'scripted');
    return [image('existed', 'applied')];
  });
  const job = await queue.add(payload('twice'));
  assert.equal((await queue.wait(job)).attempts, 2);
  const { progress, failure } = await queue.status(job.id);
  assert.equal(failure, undefined);
  assert.deepEqual(
    progress?.failures.map(({ code }) => code),
    ['LAYER_CORRUPT'],
  );
});

test('the attempts come from UNPACK_ATTEMPTS if the producer sets none', async () => {
  const settings = fixture.settings({ UNPACK_ATTEMPTS: '4' });
  const queue = fixture.producer(settings);
  await fixture.worker(settings, failing);
  const job = await queue.add(payload('INTERNAL'));
  await assert.rejects(queue.wait(job));
  assert.equal((await queue.status(job.id)).attemptsMade, 4);
});

test('a job with an unknown backoff can fail', async () => {
  const settings = fixture.settings();
  await fixture.worker(settings, failing);
  const job = await fixture
    .bull(settings)
    .add('unpack', payload('INTERNAL'), { attempts: 2, backoff: { type: 'fibonacci' } });
  await eventually('the job has failed', () => job.isFailed());
  assert.equal((await fixture.producer(settings).status(job.id ?? '')).attemptsMade, 2);
});

for (const [what, data] of Object.entries({ 'a text': 'alpine', null: null, 'a list': [], 'an empty object': {} })) {
  test(`a payload that is ${what} fails once with INVALID_JOB`, async () => {
    const settings = fixture.settings();
    await fixture.worker(settings, failing);
    const job = await fixture.bull(settings).add('unpack', data, { attempts: 5 });
    await eventually('the job has failed', () => job.isFailed());
    const status = await fixture.producer(settings).status(job.id ?? '');
    assert.equal(status.attemptsMade, 1);
    assert.match(status.failedReason ?? '', /^\[INVALID_JOB\] the payload is /);
  });
}

test('a job of another name fails once with INVALID_JOB', async () => {
  const settings = fixture.settings();
  await fixture.worker(settings, failing);
  const job = await fixture.bull(settings).add('resize', payload('INTERNAL'), { attempts: 5 });
  await eventually('the job has failed', () => job.isFailed());
  const status = await fixture.producer(settings).status(job.id ?? '');
  assert.match(status.failedReason ?? '', /^\[INVALID_JOB\] the job is named "resize"/);
  assert.equal(status.attemptsMade, 1);
});

test('a bucket that the worker may not read is refused', async () => {
  const settings = fixture.settings({ UNPACK_BUCKETS: 'one, two' });
  const queue = fixture.producer(settings);
  await fixture.worker(settings, failing);
  await assert.rejects(queue.wait(await queue.add(payload('three'))), {
    code: 'SOURCE_NOT_ALLOWED',
    message: /"three".*one, two/,
  });
});

test('an attempt that takes longer than UNPACK_JOB_TIMEOUT is stopped with TIMED_OUT', async () => {
  const settings = fixture.settings({ UNPACK_JOB_TIMEOUT: '3s' });
  const queue = fixture.producer(settings);
  await fixture.worker(settings, (call) => (call.number === 1 ? untilAborted(call) : [image('applied')]));
  const job = await queue.add(payload('slow'));
  assert.equal((await queue.wait(job)).attempts, 2);
  assert.equal((await queue.status(job.id)).progress?.failures[0]?.code, 'TIMED_OUT');
});

test('layers that a failed job has committed stay', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await fixture.worker(settings, ({ onResolved }) => {
    onResolved?.([image('existed', 'applied', 'applying')]);
    throw new UnpackError('LAYER_UNSAFE', 'scripted');
  });
  const job = await queue.add(payload('half'));
  await assert.rejects(queue.wait(job));
  const { progress } = await queue.status(job.id);
  assert.equal(progress?.phase, 'failed');
  assert.deepEqual([progress?.layersDone, progress?.layersTotal], [2, 3]);
  assert.deepEqual(
    progress?.images[0]?.layers.map(({ phase }) => phase),
    ['existed', 'applied', 'applying'],
  );
});

test('a job that failed after six stalls can be retried by hand', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const bull = fixture.bull(settings);
  const added = await queue.add(payload('poison'));
  const client = await bull.getBackend().client;
  // what six dead workers leave behind
  await client.hset(bull.toKey(added.id), { stc: '6' });
  await fixture.worker(settings, () => [image('applied')]);
  await assert.rejects(queue.wait(added), { code: 'STALLED', message: /stopped responding 6 times/ });
  const failed = await queue.status(added.id);
  assert.match(failed.failedReason ?? '', /^\[STALLED\]/);
  assert.equal(failed.failure?.retryable, false);
  await (await bull.getJob(added.id))?.retry('failed', { resetAttemptsMade: true });
  assert.equal((await queue.wait(added)).attempts, 1);
});

test('the backoff doubles, is at most ten minutes, and jitter takes at most half', () => {
  assert.deepEqual(
    [1, 2, 3].map((made) => backoffDelay(made, 2000, () => 0)),
    [2000, 4000, 8000],
  );
  assert.equal(
    backoffDelay(1, 2000, () => 1),
    1000,
  );
  assert.equal(
    backoffDelay(100, 2000, () => 0),
    600_000,
  );
});
