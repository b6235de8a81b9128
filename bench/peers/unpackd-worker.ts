import { randomUUID } from 'node:crypto';
import { startRedis } from '../../dev/redis-server.ts';
import { startWorker } from '../../dev/worker-process.ts';
import { loadConfig } from '../../src/config.ts';
import type { Payload, UnpackResult } from '../../src/queue/formats.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import type { Build } from '../build.ts';
import type { Contestant, Entrant } from './contestant.ts';
import { ownStore, type WorkerStore } from './worker-store.ts';

export interface WorkerOptions {
  /** An empty folder of this worker alone. */
  readonly folder: string;
  /** Opens the store in that folder. Default: one of unpackd's own. */
  readonly store?: (folder: string) => Promise<WorkerStore>;
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
      const store = await (options.store ?? ownStore)(options.folder);
      const redis = await startRedis();
      const settings = {
        ...options.settings,
        ...store.settings,
        REDIS_URL: redis.url,
        UNPACK_QUEUE: `bench-${randomUUID()}`,
        UNPACK_LOG_LEVEL: 'warn',
        UNPACK_WORKER_NAME: 'bench',
      };
      const worker = startWorker(build.worker, settings);
      const queue = new UnpackQueue(loadConfig(settings, {}));
      return {
        standing: { workers: [worker.pid, ...store.pids], servers: [redis.pid, ...options.servers] },
        async run() {
          const job = await queue.add(options.payload);
          const result = await Promise.race([queue.wait(job), worker.failed]);
          requireWork(result);
          options.onResult?.(result);
          return result.durationMs / 1000;
        },
        reset: () => store.empty(),
        async close() {
          await queue.close();
          await worker.stop();
          await store.close();
          await redis.stop();
        },
      };
    },
  };
}

/** @throws Error if the store had a layer already: the time of such a job says nothing */
function requireWork({ images }: UnpackResult): void {
  const existed = images.flatMap(({ layers }) => layers).filter(({ state }) => state !== 'applied');
  if (existed.length > 0) throw new Error(`${existed.length} layers were in the store before the job`);
}
