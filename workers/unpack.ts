import { setTimeout as sleep } from 'node:timers/promises';
import { nativeStatus, nativeWarnings } from '../src/archive/native-status.ts';
import { startHealthServer, type WhyNotReady } from '../src/board/health.ts';
import { type Config, ConfigError, layerLimits, loadConfig, s3Connection, storeToWrite } from '../src/config.ts';
import { errnoOf } from '../src/errno.ts';
import { toUnpackError } from '../src/errors.ts';
import { createUnpacker } from '../src/image/unpacker.ts';
import { consoleToLog, createLog, type Logger } from '../src/queue/log.ts';
import { stopSignal } from '../src/queue/stop-signal.ts';
import { UnpackWorker } from '../src/queue/worker.ts';
import { displayRedisUrl } from '../src/redis-address.ts';
import { removeOrphans } from '../src/rootfs/orphans.ts';
import type { Snapshotter } from '../src/snapshots/snapshotter.ts';
import { openStoreThread } from '../src/snapshots/store-thread.ts';

/** Milliseconds that the apply threads get to end after the jobs have. */
const THREADS_LIMIT = 2000;
/** Milliseconds between two tries to open a store whose disk has failed: the first pause, doubled up to the last. */
const FIRST_PAUSE = 1000;
const LAST_PAUSE = 30_000;
/** What a disk, or a machine that lacks something, fails with: it may be mended while the worker waits. */
const MAY_PASS = new Set([
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
 * The worker process: opens the store, clears away what a crash has left there, takes jobs until `stop` is aborted, then
 * lets them finish or gives them back. Started by `unpackd worker`, or by `node workers/unpack.ts`. A store on a disk that
 * has failed or is full is waited for.
 * @throws UnpackError STORE_FAILED when the store is none that this worker may use; ListenError when the health port can't be had
 */
export async function runWorker(config: Config, stop: AbortSignal, log: Logger = createLog(config)): Promise<void> {
  const restoreConsole = consoleToLog(log);
  let whyNotReady: WhyNotReady = async () => 'the worker is starting';
  const health = await startHealthServer(config, (timeout) => whyNotReady(timeout));
  if (health !== undefined) log.info({ url: health.url }, `health at ${health.url}`);
  for (const warning of nativeWarnings(nativeStatus(config.UNPACK_NATIVE_INFLATE))) log.warn(warning);
  try {
    const snapshotter = await openPatiently(config, stop, log, (reason) => {
      whyNotReady = async () => reason;
    });
    if (snapshotter === undefined) return;
    try {
      await workOn(snapshotter, config, stop, log, (worker) => {
        whyNotReady = (timeout) => worker.whyNotReady(timeout);
      });
    } finally {
      await snapshotter.close();
    }
  } finally {
    await health?.close();
    restoreConsole();
  }
  log.info('stopped');
}

async function workOn(
  snapshotter: Snapshotter,
  config: Config,
  stop: AbortSignal,
  log: Logger,
  onMade: (worker: UnpackWorker) => void,
): Promise<void> {
  await clearAway(snapshotter, log);
  const unpacker = createUnpacker({
    snapshotter,
    threads: config.UNPACK_THREADS,
    limits: layerLimits(config),
    durable: config.UNPACK_DURABLE,
    native: config.UNPACK_NATIVE_INFLATE,
    resident: true,
  });
  const store = { root: snapshotter.root, snapshotter: snapshotter.type };
  const policy = { connection: s3Connection(config), buckets: config.UNPACK_BUCKETS };
  const worker = new UnpackWorker({ settings: config, unpacker, keeper: unpacker.keeper, policy, store, log });
  onMade(worker);
  try {
    await until(stop, worker.start());
    if (!stop.aborted) {
      const when = worker.storeFault === undefined ? '' : ' once the store can be written';
      log.info(readyFields(config), `ready: takes jobs from ${config.UNPACK_QUEUE}${when}, unpacks into ${store.root}`);
    }
    await aborted(stop);
  } finally {
    await worker.close();
    await Promise.race([unpacker.close(), sleep(THREADS_LIMIT, undefined, { ref: false })]);
  }
}

/** The store, or `undefined` where `stop` came first. @throws UnpackError where waiting does not help */
async function openPatiently(
  config: Config,
  stop: AbortSignal,
  log: Logger,
  onFailure: (reason: string) => void,
): Promise<Snapshotter | undefined> {
  let told = false;
  for (let pause = FIRST_PAUSE; !stop.aborted; pause = Math.min(pause * 2, LAST_PAUSE)) {
    try {
      return await openStoreThread(storeToWrite(config));
    } catch (error) {
      const { code, message } = toUnpackError(error);
      if (code !== 'STORE_FULL' && !mayPass(error)) throw error;
      if (!told) log.error({ code }, `takes no jobs until the store can be opened: ${message}`);
      told = true;
      onFailure(`takes no jobs until the store can be opened: ${message}`);
    }
    await sleep(pause, undefined, { signal: stop }).catch(() => {});
  }
  return undefined;
}

function mayPass(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (MAY_PASS.has(errnoOf(cause) ?? '')) return true;
    // SQLite's own codes: locked by a process that hangs, no memory, a failed disk, a full one
    if ('errcode' in cause && [5, 6, 7, 10, 13].includes(Number(cause.errcode) & 0xff)) return true;
  }
  return false;
}

/** What dead workers have left and what cannot be removed now takes space, and keeps nobody from working. */
async function clearAway(snapshotter: Snapshotter, log: Logger): Promise<void> {
  try {
    const removed = await removeOrphans(snapshotter, (level, sentence, fields = {}) => log[level](fields, sentence));
    if (removed > 0) log.info({ removed }, `removed ${removed} unfinished snapshots that nobody works on`);
  } catch (error) {
    const { code, message } = toUnpackError(error);
    log.warn({ code }, `what dead workers have left in the store cannot all be removed: ${message}`);
  }
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

/** The end of `work`, or of the wait for it. */
function until(stop: AbortSignal, work: Promise<void>): Promise<void> {
  return Promise.race([work, aborted(stop)]);
}

async function main(): Promise<void> {
  try {
    const config = loadConfig();
    const log = createLog(config);
    await runWorker(config, stopSignal(log), log);
    // connections that a lost Redis still holds open must not keep the process
    process.exit(0);
  } catch (error) {
    const sentence = error instanceof Error ? error.message : String(error);
    process.stderr.write(`unpackd worker: ${sentence}\n`);
    process.exit(error instanceof ConfigError ? 2 : 1);
  }
}

if (import.meta.main) void main();
