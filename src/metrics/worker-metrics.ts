import { Counter, Gauge, type Registry } from 'prom-client';
import type { CollectionTotals } from '../collector/collector.ts';
import type { CallObserver } from '../grpc/server.ts';
import type { WorkerState } from '../queue/worker.ts';
import type { WorkerObserver } from '../queue/worker-observer.ts';
import type { ThreadUse } from '../rootfs/pool.ts';
import type { Store } from '../snapshots/store.ts';
import { jobMetrics } from './job-metrics.ts';
import { MetricsPage } from './metrics-page.ts';
import { snapshotterMetrics } from './snapshotter-metrics.ts';
import { addStoreMetrics } from './store-metrics.ts';

/** What the metrics of a worker are read from when Prometheus asks. */
export interface WorkerSources {
  readonly worker: { readonly state: WorkerState };
  readonly threads: { readonly use: ThreadUse };
  readonly collector: { readonly totals: CollectionTotals };
  /** `undefined`: images are removed only if a person asks for it. */
  readonly spaceWatch: { readonly problem: string | undefined } | undefined;
  readonly store: Pick<Store, 'root' | 'images'>;
}

/** Time limit in milliseconds for the check whether the worker is ready. It is below that of a part of the page. */
const READY_LIMIT = 1500;

/** The metrics of a worker process. */
export interface WorkerMetrics {
  readonly page: MetricsPage;
  /** Counts jobs and layers. */
  readonly jobs: WorkerObserver;
  /** Counts calls of containerd. `undefined` if the worker does not serve its store. */
  readonly snapshotterCalls: CallObserver | undefined;
  /** Adds what the worker does, and the state of its store. Call it once, when the store is open. */
  watch(sources: WorkerSources): void;
}

/**
 * Makes the page of a worker. Until `watch` is called, it has the process, the jobs, and whether the worker is ready.
 * @param whyNotReady why the worker takes no jobs, within a time limit in milliseconds; `undefined` if it does
 */
export function startWorkerMetrics(
  { queue, servesStore }: { readonly queue: string; readonly servesStore: boolean },
  whyNotReady: (limit: number) => Promise<string | undefined>,
): WorkerMetrics {
  const page = new MetricsPage('worker', queue);
  addReady(page, whyNotReady);
  return {
    page,
    jobs: jobMetrics(page.registry),
    snapshotterCalls: servesStore ? snapshotterMetrics(page.registry) : undefined,
    watch({ worker, threads, collector, spaceWatch, store }) {
      addSlots(page.registry, worker, threads);
      addOutages(page.registry, worker);
      addDownloads(page.registry, threads);
      addCollections(page.registry, collector, spaceWatch);
      addStoreMetrics(page, store);
    },
  };
}

function addReady(page: MetricsPage, whyNotReady: Parameters<typeof startWorkerMetrics>[1]): void {
  const ready = new Gauge({
    name: 'unpackd_worker_ready',
    help: 'Whether this worker takes jobs: 1 or 0. With 0, the reason is at /readyz.',
    registers: [page.registry],
  });
  ready.set(0);
  page.add({
    name: 'ready',
    async read() {
      ready.set((await whyNotReady(READY_LIMIT)) === undefined ? 1 : 0);
    },
    clear: () => ready.set(0),
  });
}

function addSlots(registry: Registry, worker: WorkerSources['worker'], threads: WorkerSources['threads']): void {
  gauge(registry, 'unpackd_job_slots', 'Maximum number of jobs at the same time (UNPACK_JOBS).', () => {
    return worker.state.slots;
  });
  gauge(registry, 'unpackd_job_slots_used', 'Jobs that run now.', () => worker.state.jobs);
  gauge(registry, 'unpackd_apply_threads', 'Maximum number of layers that are written at the same time.', () => {
    return threads.use.threads;
  });
  gauge(registry, 'unpackd_apply_threads_used', 'Layers that are written now.', () => threads.use.writing);
  gauge(registry, 'unpackd_layers_waiting', 'Layers that wait for a thread now.', () => threads.use.waiting);
}

function addOutages(registry: Registry, worker: WorkerSources['worker']): void {
  const services = ['redis', 'store'] as const;
  new Gauge({
    name: 'unpackd_outage',
    help: 'Whether this worker takes no jobs because of an outage: 1 or 0. store: it cannot be written.',
    labelNames: ['service'],
    registers: [registry],
    collect() {
      for (const service of services) this.set({ service }, worker.state.outages[service].isNow ? 1 : 0);
    },
  });
  new Counter({
    name: 'unpackd_outages_total',
    help: 'Outages that have begun since this worker started.',
    labelNames: ['service'],
    registers: [registry],
    collect() {
      this.reset();
      for (const service of services) this.inc({ service }, worker.state.outages[service].begun);
    },
  });
}

function addDownloads(registry: Registry, threads: WorkerSources['threads']): void {
  counter(
    registry,
    'unpackd_download_retries_total',
    'Requests for layers that failed or ended too early, so that another request had to continue.',
    () => threads.use.resumes,
  );
}

function addCollections(
  registry: Registry,
  collector: WorkerSources['collector'],
  spaceWatch: WorkerSources['spaceWatch'],
): void {
  gauge(
    registry,
    'unpackd_collector_on',
    'Whether images are removed when space is low (UNPACK_GC_LOW): 1 or 0.',
    () => (spaceWatch === undefined ? 0 : 1),
  );
  gauge(
    registry,
    'unpackd_collector_problem',
    'Whether images should be removed because space is low, but cannot be, or not enough of them: 1 or 0. The log has the reason.',
    () => (spaceWatch?.problem === undefined ? 0 : 1),
  );
  new Counter({
    name: 'unpackd_collections_total',
    help: 'Collections that removed images. short: less could be freed than was wanted.',
    labelNames: ['outcome'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [outcome, number] of Object.entries(collector.totals.collections)) this.inc({ outcome }, number);
    },
  });
  counter(registry, 'unpackd_collected_images_total', 'Images that collections removed.', () => {
    return collector.totals.images;
  });
  counter(registry, 'unpackd_collected_bytes_total', 'Bytes that the removed images took on disk.', () => {
    return collector.totals.bytes;
  });
  counter(registry, 'unpackd_collection_seconds_total', 'Time that collections took.', () => collector.totals.seconds);
}

/** A gauge whose value is read at each scrape. */
function gauge(registry: Registry, name: string, help: string, value: () => number): void {
  new Gauge({
    name,
    help,
    registers: [registry],
    collect() {
      this.set(value());
    },
  });
}

/** A counter whose value somebody else counts. */
function counter(registry: Registry, name: string, help: string, value: () => number): void {
  new Counter({
    name,
    help,
    registers: [registry],
    collect() {
      this.reset();
      this.inc(value());
    },
  });
}
