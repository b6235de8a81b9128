import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { startRedis } from '../../dev/redis-server.ts';
import { startWorker } from '../../dev/worker-process.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import type { Payload } from '../../src/queue/payload-schema.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import type { UnpackResult } from '../../src/queue/result.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import type { Build } from '../build.ts';
import type { Contestant, Entrant } from './contestant.ts';

export interface WorkerOptions {
  readonly folder: string;
  readonly payload: Payload;
  /** Settings of the worker: where the bucket is, how durable. */
  readonly settings: Readonly<Record<string, string>>;
  readonly servers: readonly number[];
  readonly onResult?: (result: UnpackResult) => void;
}

/**
 * The whole product: a worker process that has served a job before, fed through Redis. What counts is the time from the
 * job's start in the worker to its end, as its result tells it.
 */
export function unpackdWorker(build: Build, options: WorkerOptions, name = 'unpackd, worker'): Entrant {
  return {
    name,
    how: 'a job for a worker process that has served one before: the job’s own duration',
    async enter(): Promise<Contestant> {
      const redis = await startRedis();
      const root = join(options.folder, 'store');
      const settings = {
        ...options.settings,
        REDIS_URL: redis.url,
        UNPACK_QUEUE: `bench-${randomUUID()}`,
        UNPACK_ROOT: root,
        UNPACK_LOG_LEVEL: 'warn',
        UNPACK_WORKER_NAME: 'bench',
      };
      const config: Config = loadConfig(settings, {});
      const snapshotter = await openSnapshotter({ root, type: config.UNPACK_SNAPSHOTTER });
      const worker = startWorker(build.worker, settings);
      const queue = new UnpackQueue(config);
      return {
        standing: { workers: [worker.pid], servers: [redis.pid, ...options.servers] },
        async run() {
          const job = await queue.add(options.payload);
          const result = await Promise.race([queue.wait(job), worker.failed]);
          options.onResult?.(result);
          return result.durationMs / 1000;
        },
        reset: () => emptyStore(snapshotter),
        async close() {
          await queue.close();
          await worker.stop();
          await snapshotter.close();
          await redis.stop();
        },
      };
    },
  };
}

/** Removes every snapshot, children first, with its files. */
export async function emptyStore(snapshotter: Snapshotter): Promise<void> {
  for (let left = await snapshotter.walk(); left.length > 0; left = await snapshotter.walk()) {
    const parents = new Set(left.map(({ parent }) => parent));
    for (const { name } of left) if (!parents.has(name)) await snapshotter.remove(name);
  }
  await snapshotter.cleanup();
}
