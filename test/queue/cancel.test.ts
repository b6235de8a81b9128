import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CANCEL_FLAG_LIFE } from '../../src/queue/cancellation.ts';
import { JobNotFoundError } from '../../src/queue/errors.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image, untilAborted } from './scripted-unpacker.ts';
import { startWorkerProcess } from './start-worker-process.ts';

const fixture = queueFixture();
const cancelled = { name: 'UnpackError', code: 'CANCELLED' };

test('a waiting job is marked as cancelled, and a worker fails it without starting it', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const job = await queue.add(payload('one'));
  assert.equal(await queue.cancel(job.id), true);
  const before = await queue.status(job.id);
  assert.deepEqual([before.state, before.cancelRequested], ['waiting', true]);

  let calls = 0;
  await fixture.worker(settings, () => {
    calls++;
    return [image('applied')];
  });
  await assert.rejects(queue.wait(job), { ...cancelled, message: 'the job was cancelled on request' });
  const after = await queue.status(job.id);
  assert.deepEqual([after.state, after.cancelRequested, after.attemptsMade], ['failed', false, 1]);
  assert.equal(after.failedReason, '[CANCELLED] the job was cancelled on request');
  assert.equal(calls, 0);
});

for (const [kind, options] of Object.entries({ delayed: { delay: 60_000 }, prioritized: { priority: 5 } })) {
  test(`a cancelled ${kind} job goes to the front, so that the next free worker ends it`, async () => {
    const settings = fixture.settings({ UNPACK_JOBS: '1' });
    const queue = fixture.producer(settings);
    const ahead = await queue.add(payload('ahead'));
    const job = await queue.add(payload('one'), options);
    assert.equal((await queue.status(job.id)).state, kind);
    await queue.cancel(job.id, 'wrong tag');
    await fixture.worker(settings, (call) => untilAborted(call));
    await assert.rejects(queue.wait(job), { ...cancelled, message: 'the job was cancelled: wrong tag' });
    assert.equal((await queue.status(ahead.id)).state, 'active');
  });
}

test('a job that waits for its next attempt is cancelled at once', async () => {
  const settings = fixture.settings({ UNPACK_BACKOFF: '60s' });
  const queue = fixture.producer(settings);
  await fixture.worker(settings, () => {
    throw new Error('scripted');
  });
  const job = await queue.add(payload('one'));
  await eventually('the first attempt has failed', async () => (await queue.status(job.id)).state === 'delayed');
  await queue.cancel(job.id);
  await assert.rejects(queue.wait(job), cancelled);
});

test('a job that runs in another process is stopped, and not retried', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await using worker = await startWorkerProcess(settings);
  const job = await queue.add(payload('forever'));
  await eventually('the job runs', async () => (await queue.status(job.id)).progress?.phase === 'unpacking');
  await queue.cancel(job.id);
  await assert.rejects(queue.wait(job), cancelled);
  assert.equal((await queue.status(job.id)).attemptsMade, 1);
  assert.equal(worker.exitCode, null);
});

test('a running job is stopped even if the cancel message is lost', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await fixture.worker(settings, (call) => untilAborted(call));
  const job = await queue.add(payload('one'));
  await eventually('the job runs', async () => (await queue.status(job.id)).progress?.phase === 'unpacking');
  const bull = fixture.bull(settings);
  const client = await bull.getBackend().client;
  await client.set(bull.toKey(`cancel:${job.id}`), 'by hand', { PX: CANCEL_FLAG_LIFE });
  await assert.rejects(queue.wait(job), { ...cancelled, message: 'the job was cancelled: by hand' });
});

test('the work of a cancelled job can be added again at once', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const first = await queue.add(payload('same'));
  await queue.cancel(first.id);
  const second = await queue.add(payload('same'));
  assert.equal(second.deduplicated, false);
  await fixture.worker(settings, () => [image('applied')]);
  await assert.rejects(queue.wait(first), cancelled);
  await queue.wait(second);
});

test('a cancelled job that is retried by hand runs', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const job = await queue.add(payload('one'));
  await queue.cancel(job.id);
  await fixture.worker(settings, () => [image('applied')]);
  await assert.rejects(queue.wait(job), cancelled);
  await (await fixture.bull(settings).getJob(job.id))?.retry('failed');
  await queue.wait(job);
});

test('a job that has ended or does not exist is not cancelled', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await fixture.worker(settings, () => [image('applied')]);
  const job = await queue.add(payload('one'));
  await queue.wait(job);
  assert.equal(await queue.cancel(job.id), false);
  assert.equal((await queue.status(job.id)).cancelRequested, false);
  await assert.rejects(queue.cancel('no-such-job'), JobNotFoundError);
});
