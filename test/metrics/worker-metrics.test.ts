import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startWorkerMetrics } from '../../src/metrics/worker-metrics.ts';
import { diskOf } from '../../src/system/space.ts';
import { type Stage, someImage, stage, type WorkerProcess } from '../e2e/stage.ts';
import { eventually } from '../support/eventually.ts';
import type { SeenRequest } from '../support/faulty-s3.ts';
import { metricValue } from './metric-values.ts';

/** What a real worker shows of the outages around it. */
const stack = new AsyncDisposableStack();
after(() => stack.disposeAsync());

let parts: Stage;
before(async () => {
  parts = stack.use(await stage({ type: 'native', persistent: true }));
});

const env = { UNPACK_HEALTH_PORT: '0', UNPACK_OWNERSHIP: 'squash' };

/** Reads one metric of a worker, from a new scrape at each call. */
function metricsOf(worker: WorkerProcess) {
  const url = /health at (http:[^"]+)/.exec(worker.log())?.[1] ?? '';
  return async (name: string, labels?: Readonly<Record<string, string>>): Promise<number | undefined> =>
    metricValue(await (await fetch(`${url}/metrics`)).text(), `unpackd_${name}`, labels);
}

async function end(worker: WorkerProcess): Promise<void> {
  worker.kill('SIGTERM');
  assert.equal(await worker.ended, 0);
}

test('while the bucket is down, repeated requests are counted, and the bucket is failing until bytes arrive', async () => {
  const image = someImage('source', 2);
  await parts.push('source', { app: image });
  const worker = await parts.worker({ ...env, UNPACK_S3_RESUMES: '1', UNPACK_ATTEMPTS: '1' });
  const value = metricsOf(worker);
  assert.deepEqual([await value('source_failing'), await value('download_retries_total')], [0, 0]);

  const digests = image.layers.map(({ blob }) => blob.digest.slice('sha256:'.length));
  const isLayer = ({ key }: SeenRequest) => digests.some((digest) => key.endsWith(digest));
  parts.proxy.rules([{ fault: { kind: 'status', status: 503, code: 'SlowDown' }, when: isLayer }]);
  await assert.rejects(parts.queue.wait(await parts.queue.add(parts.payload('source'))), {
    code: 'SOURCE_UNAVAILABLE',
  });
  assert.equal(await value('source_failing'), 1);
  assert.equal(await value('worker_ready'), 1, 'jobs for known images can be done');

  const before = (await value('download_retries_total')) ?? 0;
  assert.ok(before >= 1, `${before} requests were repeated`);

  parts.proxy.rules([{ fault: { kind: 'drop', afterBytes: 100 }, when: isLayer, times: 1 }]);
  await parts.queue.wait(await parts.queue.add(parts.payload('source')));
  assert.equal(await value('source_failing'), 0);
  assert.equal(await value('download_retries_total'), before + 1);
  await end(worker);
});

test('without Redis a worker is not ready, until Redis is back', async () => {
  const worker = await parts.worker(env);
  const value = metricsOf(worker);
  const redis = { service: 'redis' };
  assert.deepEqual([await value('worker_ready'), await value('outage', redis)], [1, 0]);
  await parts.redis.kill();
  await eventually('the outage is shown', async () => (await value('outage', redis)) === 1);
  assert.equal(await value('worker_ready'), 0);
  await parts.redis.restart();
  await eventually('the worker is ready again', async () => (await value('worker_ready')) === 1);
  assert.deepEqual([await value('outage', redis), await value('outages_total', redis)], [0, 1]);
  await end(worker);
});

test('a worker shows whether it removes images, and that it cannot remove enough', async () => {
  const off = await parts.worker(env);
  const value = metricsOf(off);
  assert.deepEqual([await value('collector_on'), await value('collector_problem')], [0, 0]);
  await end(off);

  // so much is never free, because the store itself takes more than the rest
  const { totalBytes } = await diskOf(parts.root);
  const marks = { UNPACK_GC_LOW: `${totalBytes - 8192}`, UNPACK_GC_HIGH: `${totalBytes - 4096}` };
  const on = await parts.worker({ ...env, ...marks });
  const other = metricsOf(on);
  await eventually('images cannot be removed', async () => (await other('collector_problem')) === 1);
  assert.equal(await other('collector_on'), 1);
  await end(on);
});

test('a worker whose store cannot be opened yet is not ready', async () => {
  let reason: string | undefined = 'takes no jobs until the store can be opened';
  const { page } = startWorkerMetrics({ queue: 'queue', servesStore: false }, async () => reason);
  assert.equal(metricValue(await page.text(), 'unpackd_worker_ready'), 0);
  reason = undefined;
  assert.equal(metricValue(await page.text(), 'unpackd_worker_ready'), 1);
});
