import { setTimeout as sleep } from 'node:timers/promises';
import { nativeStatus, nativeWarnings } from '../src/archive/native-status.ts';
import { startHealthServer, type WhyNotReady } from '../src/board/health.ts';
import { marksProblem } from '../src/collector/free-space.ts';
import { SpaceWatch } from '../src/collector/space-watch.ts';
import { type Config, collectorMarks, loadConfig, storePlace, storeToWrite, unpackSettings } from '../src/config.ts';
import { errnoOf } from '../src/errno.ts';
import { ConfigError, toUnpackError } from '../src/errors.ts';
import { isGrpcError } from '../src/grpc/errors.ts';
import type { CallObserver } from '../src/grpc/server.ts';
import { createUnpacker } from '../src/image/unpacker.ts';
import type { WorkerMetrics } from '../src/metrics/worker-metrics.ts';
import { s3Connections } from '../src/s3-settings.ts';
// The SDK is loaded before any job: if a module cannot be read later, for lack of descriptors or memory, Node keeps that
// failure, and the process could never read a bucket again.
import '../src/source/s3-client.ts';
import { version } from '../src/package.ts';
import type { ServedSnapshotter } from '../src/proxy/snapshotter.ts';
import { consoleToLog, createLog, type Logger, sentenceLog } from '../src/queue/log.ts';
import { stopSignal, UnpackWorker } from '../src/queue/worker.ts';
import { joined } from '../src/queue/worker-observer.ts';
import { displayRedisUrl } from '../src/redis-address.ts';
import { removeLeftovers } from '../src/rootfs/leftovers.ts';
import { loadStore, openStore, storeFacts, storeIdentity } from '../src/snapshots/open-store.ts';
import { isOwnStore, type Store } from '../src/snapshots/store.ts';
import { openStoreThread } from '../src/snapshots/store-thread.ts';
import { diskOf } from '../src/system/space.ts';
import { traceSettings } from '../src/tracing/otel-variables.ts';
import type { WorkerTraces } from '../src/tracing/worker-traces.ts';

/** Time limit in milliseconds for the apply threads to exit after the last job. */
const THREADS_LIMIT = 2000;
/** Time limit in milliseconds for the sync of the last layers, if UNPACK_DURABLE is false. */
const SYNC_LIMIT = 10_000;
/**
 * Pause in milliseconds between two tries to open a store whose disk has failed. It doubles each time, from FIRST_PAUSE
 * to LAST_PAUSE.
 */
const FIRST_PAUSE = 1000;
const LAST_PAUSE = 30_000;
/** Errors of the disk or of the machine that an operator can repair while the worker waits. */
const MAY_BE_REPAIRED = new Set([
  'EIO',
  'EROFS',
  'EUCLEAN',
  'EBADMSG',
  'ENODEV',
  'ENXIO',
  'ESTALE',
  'EMFILE',
  'ENFILE',
  'ENOMEM',
]);

/**
 * Runs the worker process: opens the store, removes what a crash left there, and takes jobs until `stop` is aborted. Then
 * running jobs finish, or go back to the queue after a time limit. `unpackd worker` and `node workers/unpack.ts` call it.
 * If the disk of the store has failed or is full, the worker waits until the store can be opened.
 * @throws UnpackError STORE_FAILED if this worker cannot use the store; ListenError if the health port is not available
 */
export async function runWorker(config: Config, stop: AbortSignal, log: Logger = createLog(config)): Promise<void> {
  const restoreConsole = consoleToLog(log);
  let whyNotReady: WhyNotReady = async () => 'the worker is starting';
  const traces = await tracesOf(config, log);
  const metrics = await metricsOf(config, (timeout) => whyNotReady(timeout));
  const health = await startHealthServer(config, (timeout) => whyNotReady(timeout), metrics?.page);
  if (health !== undefined) log.info({ url: health.url }, `health at ${health.url}`);
  for (const warning of nativeWarnings(nativeStatus(config.UNPACK_NATIVE_INFLATE))) log.warn(warning);
  try {
    const snapshotter = await openWithRetries(config, stop, log, (reason) => {
      whyNotReady = async () => reason;
    });
    if (snapshotter === undefined) return;
    try {
      await workOn({ snapshotter, config, stop, log, metrics, traces }, (worker) => {
        whyNotReady = (timeout) => worker.whyNotReady(timeout);
      });
    } finally {
      await snapshotter.close();
    }
  } finally {
    await health?.close();
    await traces?.close();
    restoreConsole();
  }
  log.info('stopped');
}

/** Spans are made only if a collector is set. Otherwise nothing of OpenTelemetry is loaded. @throws ConfigError */
async function tracesOf(config: Config, log: Logger): Promise<WorkerTraces | undefined> {
  const settings = traceSettings(process.env);
  if (settings === undefined) return undefined;
  const { startWorkerTraces } = await import('../src/tracing/worker-traces.ts');
  log.info({ endpoint: settings.endpoint }, `traces go to ${settings.endpoint}`);
  return startWorkerTraces({
    settings,
    worker: config.UNPACK_WORKER_NAME,
    queue: config.UNPACK_QUEUE,
    log: sentenceLog(log),
  });
}

/** Metrics are counted only if they are served. Otherwise their code is not loaded. */
async function metricsOf(
  { UNPACK_HEALTH_PORT: port, UNPACK_QUEUE: queue, UNPACK_SNAPSHOTTER_SOCKET: socket }: Config,
  whyNotReady: WhyNotReady,
): Promise<WorkerMetrics | undefined> {
  if (port === undefined) return undefined;
  const { startWorkerMetrics } = await import('../src/metrics/worker-metrics.ts');
  return startWorkerMetrics({ queue, servesStore: socket !== undefined }, whyNotReady);
}

interface Work {
  readonly snapshotter: Store;
  readonly config: Config;
  readonly stop: AbortSignal;
  readonly log: Logger;
  readonly metrics: WorkerMetrics | undefined;
  readonly traces: WorkerTraces | undefined;
}

async function workOn(
  { snapshotter, config, stop, log, metrics, traces }: Work,
  onMade: (worker: UnpackWorker) => void,
): Promise<void> {
  const marks = collectorMarks(config);
  if (marks !== undefined) {
    const problem = marksProblem(marks, await diskOf(snapshotter.root), snapshotter.root);
    if (problem !== undefined) throw new ConfigError(problem);
  }
  await cleanUp(snapshotter, log);
  const served = await serveToContainerd(snapshotter, config, log, metrics?.snapshotterCalls);
  const unpacker = createUnpacker(snapshotter, unpackSettings(config), { resident: true });
  const store = storeFacts(snapshotter, storePlace(config));
  const policy = { ...s3Connections(config), buckets: config.UNPACK_BUCKETS };
  const presence = {
    program: version,
    storeIdentity: storeIdentity(snapshotter),
    disk: () => diskOf(snapshotter.root),
    images: () => snapshotter.images(),
  };
  const worker = new UnpackWorker({
    settings: config,
    unpacker,
    keeper: unpacker.keeper,
    policy,
    store,
    presence,
    observer: joined([metrics?.jobs, traces?.jobs].filter((one) => one !== undefined)),
    log,
  });
  onMade(worker);
  const { threads, collector } = unpacker;
  const spaceWatch = marks && new SpaceWatch({ collector, marks, isBusy: () => worker.isBusy, log: sentenceLog(log) });
  metrics?.watch({ worker, threads, collector, spaceWatch, store: snapshotter });
  try {
    await until(stop, worker.start());
    if (!stop.aborted) {
      const when = worker.storeFault === undefined ? '' : ' once the store can be written';
      log.info(readyFields(config), `ready: takes jobs from ${config.UNPACK_QUEUE}${when}, unpacks into ${store.root}`);
    }
    await aborted(stop);
  } finally {
    await worker.close();
    await spaceWatch?.[Symbol.asyncDispose]();
    await Promise.race([unpacker.close(), sleep(THREADS_LIMIT, undefined, { ref: false })]);
    // Only this process can prove later that its layers are on disk. It does nothing if every layer was synced.
    await Promise.race([syncLayers(snapshotter, log), sleep(SYNC_LIMIT, undefined, { ref: false })]);
    await served?.close();
  }
}

/** Opens the store, or returns `undefined` once `stop` is aborted. @throws UnpackError if waiting cannot help */
async function openWithRetries(
  config: Config,
  stop: AbortSignal,
  log: Logger,
  onFailure: (reason: string) => void,
): Promise<Store | undefined> {
  const place = storePlace(config);
  await loadStore(place);
  const mayUseReserve = collectorMarks(config) !== undefined || config.UNPACK_SNAPSHOTTER_SOCKET !== undefined;
  const options = { ...storeToWrite(config), mayUseReserve };
  let logged = false;
  for (let pause = FIRST_PAUSE; !stop.aborted; pause = Math.min(pause * 2, LAST_PAUSE)) {
    try {
      return await openStore(place, options, openStoreThread);
    } catch (error) {
      const { code, message } = toUnpackError(error);
      if (code !== 'STORE_FULL' && !mayBeRepaired(error)) throw error;
      if (!logged) log.error({ code }, `takes no jobs until the store can be opened: ${message}`);
      logged = true;
      onFailure(`takes no jobs until the store can be opened: ${message}`);
    }
    await sleep(pause, undefined, { signal: stop }).catch(() => {});
  }
  return undefined;
}

function mayBeRepaired(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (MAY_BE_REPAIRED.has(errnoOf(cause) ?? '')) return true;
    // containerd is not running yet, or does not answer
    if (isGrpcError(cause, 'UNAVAILABLE', 'DEADLINE_EXCEEDED')) return true;
    // SQLite's codes: BUSY, LOCKED, NOMEM, IOERR, FULL
    if ('errcode' in cause && [5, 6, 7, 10, 13].includes(Number(cause.errcode) & 0xff)) return true;
  }
  return false;
}

/**
 * Serves the store to containerd, if UNPACK_SNAPSHOTTER_SOCKET is set. Redis is not needed for it. Of several workers with the
 * same settings one serves, and another one takes over when it has ended.
 * @throws as `serveWhenFree`
 */
async function serveToContainerd(
  store: Store,
  config: Config,
  log: Logger,
  onCall: CallObserver | undefined,
): Promise<ServedSnapshotter | undefined> {
  const socket = config.UNPACK_SNAPSHOTTER_SOCKET;
  if (socket === undefined || !isOwnStore(store)) return undefined;
  const { serveWhenFree } = await import('../src/proxy/snapshotter.ts');
  return serveWhenFree(store, socket, sentenceLog(log), onCall);
}

/** Removes what dead workers left in the store. A failure is only logged, because leftovers only take space. */
async function cleanUp(snapshotter: Store, log: Logger): Promise<void> {
  try {
    const removed = await removeLeftovers(snapshotter, sentenceLog(log));
    if (removed > 0) log.info({ removed }, `removed ${removed} unfinished snapshots of dead workers`);
  } catch (error) {
    const { code, message } = toUnpackError(error);
    log.warn({ code }, `not all leftovers of dead workers can be removed from the store: ${message}`);
  }
}

async function syncLayers(snapshotter: Store, log: Logger): Promise<void> {
  await snapshotter.sync().catch((error: unknown) => {
    const { code, message } = toUnpackError(error);
    log.warn({ code }, `the last layers could not be synced, so a job will unpack them again: ${message}`);
  });
}

function readyFields(config: Config): object {
  return {
    queue: config.UNPACK_QUEUE,
    redis: displayRedisUrl(config.REDIS_URL),
    worker: config.UNPACK_WORKER_NAME,
    root: config.UNPACK_ROOT,
    snapshotter: config.UNPACK_SNAPSHOTTER,
    jobs: config.UNPACK_JOBS,
    threads: config.UNPACK_THREADS,
  };
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

/** Resolves when `work` resolves or `stop` is aborted. */
function until(stop: AbortSignal, work: Promise<void>): Promise<void> {
  return Promise.race([work, aborted(stop)]);
}

async function main(): Promise<void> {
  try {
    const config = loadConfig();
    const log = createLog(config);
    await runWorker(config, stopSignal(log), log);
    // open sockets to a lost Redis would keep the process alive
    process.exit(0);
  } catch (error) {
    const sentence = error instanceof Error ? error.message : String(error);
    process.stderr.write(`unpackd worker: ${sentence}\n`);
    process.exit(error instanceof ConfigError ? 2 : 1);
  }
}

if (import.meta.main) void main();
