import type { QueueOptions, WorkerOptions } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Config } from '../config.ts';
import type { QueueSettings } from './connection.ts';
import { BACKOFF_TYPE, backoffDelay } from './retries.ts';

export type BullSettings = QueueSettings &
  Pick<
    Config,
    | 'UNPACK_JOBS'
    | 'UNPACK_LOCK'
    | 'UNPACK_BACKOFF'
    | 'UNPACK_KEEP_COMPLETED'
    | 'UNPACK_KEEP_FAILED'
    | 'UNPACK_WORKER_NAME'
  >;

/** Maximum age in seconds of completed and failed jobs that are kept. */
const COMPLETED_AGE = 24 * 3600;
const FAILED_AGE = 14 * 24 * 3600;
/** Maximum number of events in Redis. They contain progress, so BullMQ's default of 10,000 could take hundreds of megabytes. */
const EVENTS_KEPT = 2000;

/** The options of BullMQ's queue for a worker. Only the queue of a worker sets the maximum number of events. */
export function bullQueueOptions(settings: BullSettings, connection: Redis): QueueOptions {
  return { connection, prefix: settings.UNPACK_REDIS_PREFIX, streams: { events: { maxLen: EVENTS_KEPT } } };
}

/** The options of BullMQ's worker. The benchmark uses them, too, for a processor that does nothing. */
export function bullWorkerOptions(settings: BullSettings, connection: Redis): WorkerOptions {
  return {
    connection,
    prefix: settings.UNPACK_REDIS_PREFIX,
    autorun: false,
    name: settings.UNPACK_WORKER_NAME,
    concurrency: settings.UNPACK_JOBS,
    lockDuration: settings.UNPACK_LOCK,
    // another worker gets the job after two checks have found its lock expired
    stalledInterval: Math.max(100, Math.round(settings.UNPACK_LOCK / 2)),
    // this limit is never reached, because the processor counts stalls: the processor's failure has a code, and BullMQ's
    // failure has none
    maxStalledCount: Number.MAX_SAFE_INTEGER,
    // milliseconds between a failed request for a job and the next request
    runRetryDelay: 1000,
    removeOnComplete: { count: settings.UNPACK_KEEP_COMPLETED, age: COMPLETED_AGE },
    removeOnFail: { count: settings.UNPACK_KEEP_FAILED, age: FAILED_AGE },
    // BullMQ counts the finished jobs of each minute, for the board and /metrics; the counts are kept for a week
    metrics: { maxDataPoints: 7 * 24 * 60 },
    settings: {
      backoffStrategy: (made, type) => (type === BACKOFF_TYPE ? backoffDelay(made, settings.UNPACK_BACKOFF) : 0),
    },
  };
}
