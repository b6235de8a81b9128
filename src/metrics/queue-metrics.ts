import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { Counter, Gauge } from 'prom-client';
import { JOB_STATES } from '../queue/job-status.ts';
import { oldestWaiting } from '../queue/oldest-waiting.ts';
import { readWorkers, type WorkerView } from '../queue/worker-presence.ts';
import type { MetricsPage } from './metrics-page.ts';

/** Adds the jobs and workers of a queue, as Redis has them at each scrape. The board serves them. */
export function addQueueMetrics(page: MetricsPage, redis: Redis, queue: Queue): void {
  addJobs(page, queue);
  addOldest(page, redis, queue);
  addWorkers(page, redis, queue);
}

function addJobs(page: MetricsPage, queue: Queue): void {
  const registers = [page.registry];
  const jobs = new Gauge({
    name: 'unpackd_queue_jobs',
    help: 'Jobs of the queue by state. Of completed and failed jobs, only those that are kept.',
    labelNames: ['state'],
    registers,
  });
  const finished = new Counter({
    name: 'unpackd_queue_jobs_finished_total',
    help: 'Jobs that all workers of the queue have completed, or failed for good, since the queue was made.',
    labelNames: ['outcome'],
    registers,
  });
  const paused = new Gauge({
    name: 'unpackd_queue_paused',
    help: 'Whether the queue is paused, so that no worker takes jobs: 1 or 0.',
    registers,
  });
  paused.remove();
  page.add({
    name: 'queue',
    async read() {
      const [counts, completed, failed, isPaused] = await Promise.all([
        queue.getJobCounts(...JOB_STATES),
        queue.getMetrics('completed', 0, 0),
        queue.getMetrics('failed', 0, 0),
        queue.isPaused(),
      ]);
      for (const state of JOB_STATES) jobs.set({ state }, counts[state] ?? 0);
      paused.set(isPaused ? 1 : 0);
      finished.reset();
      finished.inc({ outcome: 'completed' }, completed.meta.count);
      finished.inc({ outcome: 'failed' }, failed.meta.count);
    },
    clear() {
      jobs.reset();
      finished.reset();
      paused.remove();
    },
  });
}

function addOldest(page: MetricsPage, redis: Redis, queue: Queue): void {
  const age = new Gauge({
    name: 'unpackd_queue_oldest_waiting_seconds',
    help: 'How long the oldest job has waited for a worker: of those that wait, have a priority, or are delayed. Without the delay that its producer set. 0: none waits.',
    registers: [page.registry],
  });
  age.remove();
  page.add({
    name: 'oldest',
    async read() {
      const oldest = await oldestWaiting(redis, queue);
      age.set(oldest === undefined ? 0 : Math.max(0, Date.now() - oldest.ready) / 1000);
    },
    clear: () => age.remove(),
  });
}

function addWorkers(page: MetricsPage, redis: Redis, queue: Queue): void {
  const registers = [page.registry];
  const workers = new Gauge({
    name: 'unpackd_queue_workers',
    help: 'Workers of the queue by state. faulty: the store cannot be written. silent: no heartbeat for half a minute, in the last hour.',
    labelNames: ['state'],
    registers,
  });
  const slots = new Gauge({
    name: 'unpackd_queue_slots',
    help: 'Maximum number of jobs that run at the same time in all workers that are ready.',
    registers,
  });
  const clear = (): void => {
    workers.reset();
    slots.remove();
  };
  clear();
  page.add({
    name: 'workers',
    async read() {
      const found = await readWorkers(redis, queue);
      for (const state of WORKER_STATES) {
        workers.set({ state }, found.filter((worker) => stateOf(worker) === state).length);
      }
      const ready = found.filter((worker) => stateOf(worker) === 'ready');
      slots.set(ready.reduce((sum, worker) => sum + worker.slots, 0));
    },
    clear,
  });
}

const WORKER_STATES = ['ready', 'faulty', 'closing', 'silent'] as const;

function stateOf({ silent, state }: WorkerView): (typeof WORKER_STATES)[number] {
  return silent ? 'silent' : state;
}
