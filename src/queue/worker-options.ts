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

/** Seconds. */
const COMPLETED_AGE = 24 * 3600;
const FAILED_AGE = 14 * 24 * 3600;
/** Events that Redis keeps; progress is among them, so that the default of 10 000 could be hundreds of megabytes. */
const EVENTS_KEPT = 2000;

/** What a worker's settings mean to BullMQ's queue; the worker's own sets how many events are kept. */
export function bullQueueOptions(settings: BullSettings, connection: Redis): QueueOptions {
  return { connection, prefix: settings.UNPACK_REDIS_PREFIX, streams: { events: { maxLen: EVENTS_KEPT } } };
}

/** What a worker's settings mean to BullMQ. The benchmark gives them to an empty processor, too. */
export function bullWorkerOptions(settings: BullSettings, connection: Redis): WorkerOptions {
  return {
    connection,
    prefix: settings.UNPACK_REDIS_PREFIX,
    autorun: false,
    name: settings.UNPACK_WORKER_NAME,
    concurrency: settings.UNPACK_JOBS,
    lockDuration: settings.UNPACK_LOCK,
    // a job is given to another after its lock has run out and a check has seen that twice
    stalledInterval: Math.max(100, Math.round(settings.UNPACK_LOCK / 2)),
    // the processor counts, so that the failure is one of ours and not a bare sentence of BullMQ's
    maxStalledCount: Number.MAX_SAFE_INTEGER,
    // milliseconds after a failed fetch
    runRetryDelay: 1000,
    removeOnComplete: { count: settings.UNPACK_KEEP_COMPLETED, age: COMPLETED_AGE },
    removeOnFail: { count: settings.UNPACK_KEEP_FAILED, age: FAILED_AGE },
    // a week of counts by the minute, for the board and for /metrics
    metrics: { maxDataPoints: 7 * 24 * 60 },
    settings: {
      backoffStrategy: (made, type) => (type === BACKOFF_TYPE ? backoffDelay(made, settings.UNPACK_BACKOFF) : 0),
    },
  };
}
