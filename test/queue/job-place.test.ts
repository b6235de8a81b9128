import assert from 'node:assert/strict';
import { test } from 'node:test';
import { placeLines } from '../../src/cli/job-view.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { startWorkerProcess } from './start-worker-process.ts';

const fixture = queueFixture();

test('a waiting job knows how many jobs are before it, with and without a priority', async () => {
  const queue = fixture.producer(fixture.settings());
  const place = async (id: string) => (await queue.status(id)).ahead;
  const first = await queue.add(payload('one'));
  const second = await queue.add(payload('two'));
  const low = await queue.add(payload('three'), { priority: 9 });
  const high = await queue.add(payload('four'), { priority: 2 });
  assert.deepEqual(await Promise.all([first, second, high, low].map(({ id }) => place(id))), [0, 1, 2, 3]);
  assert.deepEqual(placeLines(await queue.status(first.id)), ['waits for a worker, next in the queue']);
  assert.deepEqual(placeLines(await queue.status(second.id)), ['waits for a worker, 1 job before it']);
  await queue.cancel(low.id);
  assert.equal(await place(low.id), 0);
  assert.equal(await place(first.id), 1);
});

test('a delayed job knows when it is due', async () => {
  const queue = fixture.producer(fixture.settings());
  const before = Date.now();
  const { id } = await queue.add(payload('one'), { delay: 3_600_000 });
  const { due, ahead } = await queue.status(id);
  assert.equal(ahead, undefined);
  const time = due?.getTime() ?? 0;
  assert.ok(time >= before + 3_600_000 && time <= Date.now() + 3_600_000, String(due));
  const [line] = placeLines(await queue.status(id), time - 60_000);
  assert.equal(line, `delayed until ${due?.toISOString()} (1 min)`);
});

test('the worker of a running job is silent when it does not renew its lock', async () => {
  const settings = fixture.settings({ UNPACK_LOCK: '4s' });
  const queue = fixture.producer(settings);
  await using worker = await startWorkerProcess(settings, 'frozen');
  const { id } = await queue.add(payload('long'));
  await eventually('it runs', async () => (await queue.status(id)).progress?.phase === 'unpacking');
  assert.equal((await queue.status(id)).silentSince, undefined);
  const stopped = Date.now();
  worker.kill('SIGSTOP');
  const status = await eventually('it is silent', async () => {
    const now = await queue.status(id);
    return now.silentSince === undefined ? undefined : now;
  });
  // it renewed its lock for the last time before it was stopped
  assert.ok((status.silentSince?.getTime() ?? 0) <= stopped + 500);
  assert.match(placeLines(status)[0] ?? '', /^worker silent since \S+Z \(.*\): frozen; another worker takes the job/);
  worker.kill('SIGCONT');
  await eventually('it has renewed its lock', async () => (await queue.status(id)).silentSince === undefined);
});

test('a waiting call is told the status and the progress of its job', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  await using worker = await startWorkerProcess(settings, 'told');
  const job = await queue.add(payload('until-told'));
  const states = new Set<string>();
  const done = queue.wait(job, { onStatus: ({ state }) => void states.add(state) });
  await eventually('it runs', () => states.has('active'));
  worker.kill('SIGUSR2');
  await done;
});
