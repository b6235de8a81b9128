import { setTimeout as sleep } from 'node:timers/promises';
import { startHealthServer } from '../src/board/health.ts';
import { type Config, ConfigError, layerLimits, loadConfig, s3Connection, storeToWrite } from '../src/config.ts';
import { toUnpackError } from '../src/errors.ts';
import { createUnpacker } from '../src/image/unpacker.ts';
import { createLog, type Logger } from '../src/queue/log.ts';
import { stopSignal } from '../src/queue/stop-signal.ts';
import { UnpackWorker } from '../src/queue/worker.ts';
import { displayRedisUrl } from '../src/redis-address.ts';
import { removeOrphans } from '../src/rootfs/orphans.ts';
import { openSnapshotter } from '../src/snapshots/open.ts';
import type { Snapshotter } from '../src/snapshots/snapshotter.ts';

/** Milliseconds that the apply threads get to end after the jobs have. */
const THREADS_LIMIT = 2000;

/**
 * The worker process: opens the store, clears away what a crash has left there, takes jobs until `stop` is aborted, then
 * lets them finish or gives them back. Started by `unpackd worker`, or by `node workers/unpack.ts`.
 * @throws UnpackError STORE_FAILED when the store can't be used; Error when the health port is taken
 */
export async function runWorker(config: Config, stop: AbortSignal, log: Logger = createLog(config)): Promise<void> {
  const snapshotter = await openSnapshotter(storeToWrite(config));
  try {
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
    const worker = new UnpackWorker({ settings: config, unpacker, policy, store, log });
    const health = await startHealthServer(config, (timeout) => worker.isReady(timeout));
    if (health !== undefined) log.info({ url: health.url }, `health at ${health.url}`);
    try {
      await until(stop, worker.start());
      if (!stop.aborted)
        log.info(readyFields(config), `ready: takes jobs from ${config.UNPACK_QUEUE}, unpacks into ${store.root}`);
      await aborted(stop);
    } finally {
      await worker.close();
      await health?.close();
      await Promise.race([unpacker.close(), sleep(THREADS_LIMIT, undefined, { ref: false })]);
    }
  } finally {
    await snapshotter.close();
  }
  log.info('stopped');
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
