import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { derivedLog } from '../queue/derived-progress.ts';
import { UnreadableJobError } from '../queue/errors.ts';
import type { JobStatus } from '../queue/job-status.ts';
import type { UnpackQueue } from '../queue/producer.ts';
import { readWorkers } from '../queue/worker-presence.ts';

/** Everything that is known about one job, for its page. */
export interface JobDetails {
  /** A sentence if the job cannot be read, because another program has written it. */
  readonly status: JobStatus | string;
  /** The fields of the job in Redis, as they are. */
  readonly fields: Readonly<Record<string, string>>;
  /** The newest lines of its log. */
  readonly log: readonly string[];
  readonly logTotal: number;
  /** How many waiting jobs come before it; `undefined` if it does not wait. */
  readonly ahead: number | undefined;
  /** Since when the worker that has the job does not report any more. */
  readonly silentSince: Date | undefined;
}

/** Maximum number of log lines on the page. */
const LINES = 500;

/** @throws JobNotFoundError, QueueUnavailableError */
export async function readJob(id: string, producer: UnpackQueue, queue: Queue, redis: Redis): Promise<JobDetails> {
  const status = await producer.status(id).catch((error: unknown) => {
    if (error instanceof UnreadableJobError) return error.message;
    throw error;
  });
  const [fields, { logs, count }] = await Promise.all([
    redis.hgetall(queue.toKey(id)),
    // the newest first, so that a long log is cut at its old end
    queue.getJobLogs(id, 0, LINES - 1, false),
  ]);
  // a job whose image existed has written no lines
  const derived =
    typeof status !== 'string' && count === 0 && status.finished !== undefined && status.result !== undefined;
  return {
    status,
    fields,
    log: derived ? derivedLog(status.result, status.finished) : logs,
    logTotal: count,
    ahead: typeof status === 'string' ? undefined : await jobsAhead(status, queue, redis),
    silentSince: typeof status === 'string' ? undefined : await silentSince(status, queue, redis),
  };
}

async function silentSince({ id, state }: JobStatus, queue: Queue, redis: Redis): Promise<Date | undefined> {
  if (state !== 'active') return undefined;
  const holders = (await readWorkers(redis, queue)).filter(({ jobs }) => jobs.some((job) => job.id === id));
  // the job may have gone from a silent worker to another
  return holders.every(({ silent }) => silent) ? holders[0]?.seen : undefined;
}

async function jobsAhead({ id, state }: JobStatus, queue: Queue, redis: Redis): Promise<number | undefined> {
  if (state === 'waiting') {
    // BullMQ takes jobs from the right side
    const [index, length] = await Promise.all([redis.lpos(queue.toKey('wait'), id), redis.llen(queue.toKey('wait'))]);
    return index === null ? undefined : Math.max(0, length - 1 - index);
  }
  if (state === 'prioritized') {
    const [rank, length] = await Promise.all([
      redis.zrank(queue.toKey('prioritized'), id),
      redis.llen(queue.toKey('wait')),
    ]);
    return rank === null ? undefined : rank + length;
  }
  return undefined;
}
