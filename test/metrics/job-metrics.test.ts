import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FAILURE_CODES, UnpackError } from '../../src/errors.ts';
import { observe } from '../../src/image/progress.ts';
import { jobMetrics } from '../../src/metrics/job-metrics.ts';
import { MetricsPage } from '../../src/metrics/metrics-page.ts';
import { diffId } from '../../src/oci/digest.ts';
import { eventually, payload, queueFixture } from '../queue/queue-fixture.ts';
import { type Call, image, untilAborted } from '../queue/scripted-unpacker.ts';
import { metricValue } from './metric-values.ts';

const fixture = queueFixture();

/** Unpacks one layer of 1000 bytes, whose tar has 4000, as `createUnpacker` reports it. */
function unpackOne({ onResolved, watcher }: Call) {
  const state = image('queued', 'queued');
  onResolved?.([state]);
  let now = 0;
  const observer = observe({ state, warnings: [], now: () => now, watcher });
  observer.phase(0, 'existed');
  observer.phase(1, 'waiting');
  now = 500;
  observer.phase(1, 'applying');
  observer.progress(1, { fetched: 300, unpacked: 900, entries: 1 });
  // the layers below were replaced, so the layer is written again
  observer.progress(1, { fetched: 200, unpacked: 600, entries: 1 });
  now = 4000;
  observer.done(1, {
    digest: diffId(`sha256:${'1'.repeat(64)}`),
    compressedBytes: 1000,
    uncompressedBytes: 4000,
    entries: 7,
    timings: { fetchMs: 700, decompressMs: 300, writeMs: 2000, totalMs: 3000 },
    warnings: [],
    impliedDirectories: [],
    directoryModes: [],
    usage: { bytes: 8192, inodes: 7 },
    needsSecondPass: false,
    findings: { lateDeletions: [] },
  });
  now = 4500;
  observer.phase(1, 'committing');
  now = 4600;
  observer.phase(1, 'applied');
  return [state];
}

test('jobs are counted by outcome and code, retries by code, layers by state, bytes and durations by phase', async () => {
  const page = new MetricsPage('worker', 'queue');
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const fails = async (call: Call) => {
    if (call.bucket === 'applied') return unpackOne(call);
    if (call.bucket === 'cancelled') return untilAborted(call);
    if (call.bucket === 'damaged') throw new UnpackError('LAYER_CORRUPT', 'bad bytes');
    throw new UnpackError('SOURCE_UNAVAILABLE', 'S3 is away');
  };
  await fixture.worker(settings, fails, {}, jobMetrics(page.registry));

  const zero = await page.text();
  for (const code of Object.keys(FAILURE_CODES)) {
    const outcome = code === 'CANCELLED' ? 'cancelled' : 'failed';
    assert.equal(metricValue(zero, 'unpackd_jobs_total', { outcome, code }), 0, `${code} is there before it happens`);
  }
  assert.equal(metricValue(zero, 'unpackd_layer_phase_duration_seconds_count', { phase: 'commit' }), 0);

  await queue.wait(await queue.add(payload('applied')));
  await assert.rejects(queue.wait(await queue.add(payload('damaged'), { attempts: 5 })));
  await assert.rejects(queue.wait(await queue.add(payload('unavailable'), { attempts: 3 })));
  const cancelled = await queue.add(payload('cancelled'));
  await eventually('the job runs', async () => (await queue.status(cancelled.id)).progress?.phase === 'unpacking');
  await queue.cancel(cancelled.id);
  await assert.rejects(queue.wait(cancelled));

  const text = await page.text();
  const value = (name: string, labels?: Record<string, string>) => metricValue(text, `unpackd_${name}`, labels);
  assert.equal(value('jobs_total', { outcome: 'completed', code: '' }), 1);
  assert.equal(value('jobs_total', { outcome: 'failed', code: 'LAYER_CORRUPT' }), 1);
  assert.equal(value('jobs_total', { outcome: 'failed', code: 'SOURCE_UNAVAILABLE' }), 1);
  assert.equal(value('jobs_total', { outcome: 'cancelled', code: 'CANCELLED' }), 1);
  assert.equal(value('job_retries_total', { code: 'LAYER_CORRUPT' }), 1, 'damaged bytes have one more attempt');
  assert.equal(value('job_retries_total', { code: 'SOURCE_UNAVAILABLE' }), 2);
  assert.equal(value('job_duration_seconds_count', { outcome: 'completed' }), 1);
  assert.equal(value('job_wait_seconds_count'), 4, 'a job is counted once, whatever its number of attempts');

  assert.equal(value('layers_total', { state: 'applied' }), 1);
  assert.equal(value('layers_total', { state: 'existed' }), 1);
  assert.equal(value('fetched_bytes_total'), 300 + 1000);
  assert.equal(value('unpacked_bytes_total'), 900 + 4000);
  assert.equal(value('written_bytes_total'), 8192);
  assert.equal(value('layer_duration_seconds_sum'), 4.6);
  const phases = ['thread', 'fetch', 'inflate', 'write', 'below', 'commit'];
  assert.deepEqual(
    phases.map((phase) => value('layer_phase_duration_seconds_sum', { phase })),
    [1, 0.7, 0.3, 2, 0.5, 0.1],
    'the phases add up to the duration of the layer',
  );
});

test('a job whose image is in the store counts as existed, with all its layers', async () => {
  const page = new MetricsPage('worker', 'queue');
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const known = [image('existed', 'existed', 'existed')];
  const store = { recall: async () => known, look: async () => known };
  await fixture.worker(settings, () => [], store, jobMetrics(page.registry));
  await queue.wait(await queue.add(payload('known')));
  const text = await page.text();
  assert.equal(metricValue(text, 'unpackd_jobs_total', { outcome: 'existed', code: '' }), 1);
  assert.equal(metricValue(text, 'unpackd_layers_total', { state: 'existed' }), 3);
  assert.equal(metricValue(text, 'unpackd_job_duration_seconds_count', { outcome: 'existed' }), 1);
  assert.equal(metricValue(text, 'unpackd_job_wait_seconds_count'), 1);
});

test('a job that goes back to the queue at shutdown is counted as given back', async () => {
  const page = new MetricsPage('worker', 'queue');
  const settings = fixture.settings({ UNPACK_GRACE: '0s' });
  const queue = fixture.producer(settings);
  const worker = await fixture.worker(settings, (call) => untilAborted(call), {}, jobMetrics(page.registry));
  const job = await queue.add(payload('slow'));
  await eventually('the job runs', async () => (await queue.status(job.id)).progress?.phase === 'unpacking');
  await worker.close();
  const text = await page.text();
  assert.equal(metricValue(text, 'unpackd_jobs_given_back_total', { why: 'shutting_down' }), 1);
  assert.equal(metricValue(text, 'unpackd_jobs_total', { outcome: 'failed', code: 'SHUTTING_DOWN' }), 0);
});
