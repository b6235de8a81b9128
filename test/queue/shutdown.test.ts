import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';
import { startWorkerProcess } from './start-worker-process.ts';

const fixture = queueFixture();

test('SIGTERM lets a job finish within the grace time, and the worker ends with 0', async () => {
  // one job at once: a free place might take the next one between the signal and what the worker does about it
  const settings = fixture.settings({ UNPACK_GRACE: '5m', UNPACK_JOBS: '1' });
  const queue = fixture.producer(settings);
  await using worker = await startWorkerProcess(settings);
  const job = await queue.add(payload('until-told'));
  await eventually('the job runs', async () => (await queue.status(job.id)).state === 'active');
  worker.kill('SIGTERM');
  await eventually('it has heard', () => worker.messages.some((line) => line.startsWith('SIGTERM')));
  const another = await queue.add(payload('quick'));
  worker.kill('SIGUSR2');
  assert.equal((await queue.wait(job)).attempts, 1);
  assert.equal(await worker.ended(), 0);
  assert.equal((await queue.status(another.id)).state, 'waiting');
});

test('after the grace time a job goes back to the front of the queue, and the attempt does not count', async () => {
  const settings = fixture.settings({ UNPACK_JOBS: '1' });
  const queue = fixture.producer(settings);
  await using worker = await startWorkerProcess(settings);
  const job = await queue.add(payload('forever'));
  await eventually('the job runs', async () => (await queue.status(job.id)).state === 'active');
  const behind = await queue.add(payload('behind'));
  worker.kill('SIGTERM');
  assert.equal(await worker.ended(), 0);
  const status = await queue.status(job.id);
  assert.deepEqual([status.state, status.attemptsMade, status.failedReason], ['waiting', 0, undefined]);

  const order: string[] = [];
  await fixture.worker(settings, ({ bucket }) => {
    order.push(bucket);
    return [image('applied')];
  });
  assert.equal((await queue.wait(job)).attempts, 1);
  await queue.wait(behind);
  assert.deepEqual(order, ['forever', 'behind']);
  const { logs } = await fixture.bull(settings).getJobLogs(job.id);
  assert.ok(
    logs.some((line) => /given back after .* did not finish within 300 ms \(UNPACK_GRACE\)/.test(line)),
    logs.join('\n'),
  );
});

test('a second signal ends the worker at once', async () => {
  const settings = fixture.settings({ UNPACK_GRACE: '10m' });
  const queue = fixture.producer(settings);
  await using worker = await startWorkerProcess(settings);
  const job = await queue.add(payload('forever'));
  await eventually('the job runs', async () => (await queue.status(job.id)).state === 'active');
  worker.kill('SIGTERM');
  await eventually('it has heard', () => worker.messages.some((line) => line.startsWith('SIGTERM')));
  worker.kill('SIGTERM');
  assert.equal(await worker.ended(), 128 + 15);
});

test('a worker without jobs ends at once', async () => {
  const settings = fixture.settings({ UNPACK_GRACE: '10m' });
  await using worker = await startWorkerProcess(settings);
  worker.kill('SIGINT');
  assert.equal(await worker.ended(), 0);
});

test('another worker takes the job of a killed worker', async () => {
  const settings = fixture.settings({ UNPACK_LOCK: '2s' });
  const queue = fixture.producer(settings);
  await using worker = await startWorkerProcess(settings, 'the-dead-one');
  const job = await queue.add(payload('forever'));
  await eventually('the job runs', async () => (await queue.status(job.id)).state === 'active');
  worker.kill('SIGKILL');
  await worker.ended();
  await fixture.worker(settings, () => [image('applied')]);
  const result = await queue.wait(job);
  assert.deepEqual([result.worker.name, result.attempts], ['worker-1', 1]);
  const { logs } = await fixture.bull(settings).getJobLogs(job.id);
  assert.ok(
    logs.some((line) => /WARN taken over from a worker that stopped responding \(1 of at most 5 times\)/.test(line)),
    logs.join('\n'),
  );
});
