import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { QueueEvents } from 'bullmq';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';

const fixture = queueFixture();

async function progressEvents(settings: { UNPACK_QUEUE: string; REDIS_URL: string }): Promise<unknown[]> {
  const seen: unknown[] = [];
  const events = new QueueEvents(settings.UNPACK_QUEUE, {
    connection: { url: settings.REDIS_URL },
    lastEventId: '0-0',
  });
  events.on('error', () => {});
  events.on('progress', ({ data }) => seen.push(data));
  fixture.onEnd(() => events.close());
  await events.waitUntilReady();
  return seen;
}

test('progress is written at most four times a second', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const seen = await progressEvents(settings);
  await fixture.worker(settings, async ({ onResolved }) => {
    const state = image('applying');
    onResolved?.([state]);
    for (let step = 0; step < 100 || seen.length < 4; step++) {
      for (const layer of state.layers) layer.fetched += 10;
      await sleep(10);
    }
    return [image('applied')];
  });
  const started = Date.now();
  await queue.wait(await queue.add(payload('one')));
  const seconds = (Date.now() - started) / 1000;
  // the first and the last do not wait for their turn
  assert.ok(seen.length >= 4 && seen.length <= Math.ceil(seconds * 4) + 2, `${seen.length} in ${seconds} s`);
});

test('unchanged progress is not written', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const seen = await progressEvents(settings);
  await fixture.worker(settings, async ({ onResolved }) => {
    onResolved?.([image('applying')]);
    await sleep(900);
    return [image('applied')];
  });
  await queue.wait(await queue.add(payload('one')));
  await eventually('the last is there', () => seen.some((data) => JSON.stringify(data).includes('completed')));
  assert.equal(seen.length, 3, 'resolving, unpacking, completed');
});

test('progress counts layers, and the bytes of layers that had to be fetched', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const gate = Promise.withResolvers<void>();
  await fixture.worker(settings, async ({ onResolved }) => {
    const state = image('existed', 'applied', 'applying');
    Object.assign(state.layers[2] ?? {}, { fetched: 400, unpacked: 900 });
    onResolved?.([state]);
    await gate.promise;
    return [state];
  });
  const job = await queue.add(payload('one'));
  const progress = await eventually('the layers are known', async () => {
    const now = (await queue.status(job.id)).progress;
    return now?.phase === 'unpacking' && now;
  });
  const { layersDone, layersTotal, bytesFetched, bytesTotal, bytesUnpacked } = progress;
  assert.deepEqual(
    { layersDone, layersTotal, bytesFetched, bytesTotal, bytesUnpacked },
    {
      layersDone: 2,
      layersTotal: 3,
      bytesFetched: 1400,
      bytesTotal: 2000,
      bytesUnpacked: 4900,
    },
  );
  gate.resolve();
  await queue.wait(job);
});

test('the log of a job describes its attempts', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const worker = await fixture.worker(settings, ({ onResolved, log, number }) => {
    onResolved?.([image('existed', 'applied')]);
    log?.('info', 'layer 2 of 2 applied in 12 ms');
    if (number === 1) throw new Error('the lights went out');
    return [image('existed', 'applied')];
  });
  const job = await queue.add(payload('one'));
  await queue.wait(job);
  const { logs } = await fixture.bull(settings).getJobLogs(job.id);
  assert.ok(logs.every((line) => /^\d{4}-\d\d-\d\dT[\d:.]+Z /.test(line)));
  assert.deepEqual(
    logs.map((line) => line.replace(/^\S+ /, '').replace(/in \d+ ms: 1/, 'in N ms: 1')),
    [
      'attempt 1 of 5 on worker-1',
      'image resolved (linux/amd64, sha256:000000000000…): 2 layers, 2.0 KiB',
      'layer 2 of 2 applied in 12 ms',
      'WARN attempt 1 of 5 failed, it is tried again: [INTERNAL] unexpected error: the lights went out',
      'attempt 2 of 5 on worker-1',
      'image resolved (linux/amd64, sha256:000000000000…): 2 layers, 2.0 KiB',
      'layer 2 of 2 applied in 12 ms',
      'completed in N ms: 1 layer applied, 1 existed',
    ],
  );
  const line = worker.log.find(({ msg }) => msg === 'layer 2 of 2 applied in 12 ms');
  assert.deepEqual([line?.job, line?.image], [job.id, 'registry.example/one:1']);
});
