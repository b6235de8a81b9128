import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import { FAILURE_CODES, type FailureCode } from '../errors.ts';
import type { LayerState } from '../image/progress.ts';
import type { EndedRun, GivenBackReason, WorkerObserver } from '../queue/worker-observer.ts';
import { JOB_BUCKETS, LAYER_BUCKETS, WAIT_BUCKETS } from './buckets.ts';

const CODES = Object.keys(FAILURE_CODES) as FailureCode[]; // `as`: the type of keys has only strings
const GIVEN_BACK: readonly GivenBackReason[] = ['layer_locked', 'shutting_down', 'store_faulty', 'lock_lost'];
/** The codes of attempts that failed because of the bucket. */
const SOURCE_CODES: readonly FailureCode[] = ['SOURCE_UNAVAILABLE', 'SOURCE_DENIED'];
type Outcome = 'completed' | 'existed' | 'failed' | 'cancelled';
const OUTCOMES: readonly Outcome[] = ['completed', 'existed', 'failed', 'cancelled'];

/**
 * The phases of a layer. Their durations add up to that of the layer. `fetch`, `inflate` and `write` take turns on one thread,
 * so these are sums.
 */
const PHASES = ['thread', 'fetch', 'inflate', 'write', 'below', 'commit'] as const;

/**
 * Counts the jobs and layers of a worker. Every series is there from the start, because the first failure of a code would not
 * be an increase otherwise.
 */
export function jobMetrics(registry: Registry): WorkerObserver {
  const registers = [registry];
  const jobs = new Counter({
    name: 'unpackd_jobs_total',
    help: 'Jobs that this worker has ended. existed: all layers were in the store. code: of the failure.',
    labelNames: ['outcome', 'code'],
    registers,
  });
  const retries = new Counter({
    name: 'unpackd_job_retries_total',
    help: 'Attempts that failed and are followed by another one, by the code of the failure.',
    labelNames: ['code'],
    registers,
  });
  const givenBack = new Counter({
    name: 'unpackd_jobs_given_back_total',
    help: 'Jobs that went back to the queue without losing an attempt.',
    labelNames: ['why'],
    registers,
  });
  const stalled = new Counter({
    name: 'unpackd_jobs_stalled_total',
    help: 'Jobs whose worker stopped responding, of any worker, as this worker has found.',
    registers,
  });
  const jobSeconds = new Histogram({
    name: 'unpackd_job_duration_seconds',
    help: 'Duration of the last attempt of a job, with the time in which it waited for a layer of another process.',
    labelNames: ['outcome'],
    buckets: JOB_BUCKETS,
    registers,
  });
  const waitSeconds = new Histogram({
    name: 'unpackd_job_wait_seconds',
    help: 'Time from when a job could start until a worker took it, in its first attempt.',
    buckets: WAIT_BUCKETS,
    registers,
  });
  const resolveSeconds = new Histogram({
    name: 'unpackd_resolve_duration_seconds',
    help: 'Time to find an image: its tag, index, manifest and config.',
    buckets: LAYER_BUCKETS,
    registers,
  });
  const layers = new Counter({
    name: 'unpackd_layers_total',
    help: 'Layers that were applied, or existed already.',
    labelNames: ['state'],
    registers,
  });
  const layerSeconds = new Histogram({
    name: 'unpackd_layer_duration_seconds',
    help: 'Time from when a layer could start until it was committed.',
    buckets: LAYER_BUCKETS,
    registers,
  });
  const phaseSeconds = new Histogram({
    name: 'unpackd_layer_phase_duration_seconds',
    help: 'The parts of unpackd_layer_duration_seconds: waiting for a thread, fetch, inflate, write, waiting for the layers below, commit.',
    labelNames: ['phase'],
    buckets: LAYER_BUCKETS,
    registers,
  });
  const fetched = new Counter({
    name: 'unpackd_fetched_bytes_total',
    help: 'Bytes of layers that were downloaded, as they are in the bucket.',
    registers,
  });
  const unpacked = new Counter({
    name: 'unpackd_unpacked_bytes_total',
    help: 'Bytes of tars that were read from layers.',
    registers,
  });
  const sourceFails = new Gauge({
    name: 'unpackd_source_failing',
    help: 'Whether the last attempt that needed the bucket failed because of it: 1 or 0. 0 again when bytes of a layer arrive.',
    registers,
  });
  const written = new Counter({
    name: 'unpackd_written_bytes_total',
    help: 'Bytes that the files of applied layers take on disk.',
    registers,
  });

  for (const outcome of OUTCOMES) jobSeconds.zero({ outcome });
  for (const outcome of ['completed', 'existed']) jobs.inc({ outcome, code: '' }, 0);
  for (const code of CODES) {
    jobs.inc({ outcome: code === 'CANCELLED' ? 'cancelled' : 'failed', code }, 0);
    retries.inc({ code }, 0);
  }
  for (const why of GIVEN_BACK) givenBack.inc({ why }, 0);
  for (const state of ['applied', 'existed']) layers.inc({ state }, 0);
  for (const phase of PHASES) phaseSeconds.zero({ phase });

  let isSourceFailing = false;

  function runEnds({ end, started, ready, attempt, resolveMs, images }: EndedRun): void {
    if (resolveMs !== undefined) resolveSeconds.observe(resolveMs / 1000);
    if (end.kind === 'given back') {
      givenBack.inc({ why: end.why });
      return;
    }
    if (attempt === 1) waitSeconds.observe(Math.max(0, started - ready) / 1000);
    if ('code' in end && SOURCE_CODES.includes(end.code)) {
      isSourceFailing = true;
      sourceFails.set(1);
    }
    const existed = countExisting(images);
    if (existed > 0) layers.inc({ state: 'existed' }, existed);
    if (end.kind === 'retried') {
      retries.inc({ code: end.code });
      return;
    }
    const code = end.kind === 'failed' ? end.code : '';
    const outcome = code === 'CANCELLED' ? 'cancelled' : end.kind;
    jobs.inc({ outcome, code });
    jobSeconds.observe({ outcome }, (Date.now() - started) / 1000);
  }

  function settled({ phase, written: bytes = 0, timings, timeline }: LayerState): void {
    if (phase !== 'applied') return;
    layers.inc({ state: 'applied' });
    written.inc(bytes);
    if (timings === undefined || timeline === undefined) return;
    const { queuedMs, startedMs, unpackedMs, committingMs, committedMs } = timeline;
    layerSeconds.observe((committedMs - queuedMs) / 1000);
    const milliseconds: Record<(typeof PHASES)[number], number> = {
      thread: startedMs - queuedMs,
      fetch: timings.fetchMs,
      inflate: timings.decompressMs,
      write: timings.writeMs,
      below: committingMs - unpackedMs,
      commit: committedMs - committingMs,
    };
    for (const phase of PHASES) phaseSeconds.observe({ phase }, milliseconds[phase] / 1000);
  }

  return {
    layers: {
      progressed: (more, moreUnpacked) => {
        fetched.inc(more);
        if (isSourceFailing && more > 0) {
          isSourceFailing = false;
          sourceFails.set(0);
        }
        unpacked.inc(moreUnpacked);
      },
      settled,
    },
    runEnds,
    jobStalled: () => stalled.inc(),
  };
}

function countExisting(images: EndedRun['images']): number {
  let existing = 0;
  for (const { layers } of images) for (const { phase } of layers) if (phase === 'existed') existing += 1;
  return existing;
}
