import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { startRedis } from '../../dev/redis-server.ts';
import { startWorker } from '../../dev/worker-process.ts';
import { type Config, loadConfig, storePlace } from '../../src/config.ts';
import type { Payload } from '../../src/queue/payload-schema.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import type { UnpackResult } from '../../src/queue/result.ts';
import { openStore } from '../../src/snapshots/open-store.ts';
import type { Build } from '../build.ts';
import type { Contestant, Entrant } from './contestant.ts';
import { emptyStore } from './removal.ts';

export interface WorkerOptions {
  readonly folder: string;
  readonly payload: Payload;
  /** Settings of the worker: bucket, durability. */
  readonly settings: Readonly<Record<string, string>>;
  readonly servers: readonly number[];
  readonly onResult?: (result: UnpackResult) => void;
}

/**
 * A worker process that has run a job before and takes jobs from Redis. The time that counts is `durationMs` of the
 * result: from the start of the job in the worker to its end.
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
      const snapshotter = await openStore(storePlace(config));
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
