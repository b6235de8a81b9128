import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { derivedLog } from '../queue/derived-progress.ts';
import { UnreadableJobError } from '../queue/errors.ts';
import type { JobStatus } from '../queue/job-status.ts';
import type { UnpackQueue } from '../queue/producer.ts';

/** Everything that is known about one job, for its page. */
export interface JobDetails {
  /** A sentence if the job cannot be read, because another program has written it. */
  readonly status: JobStatus | string;
  /** The fields of the job in Redis, as they are. */
  readonly fields: Readonly<Record<string, string>>;
  /** The newest lines of its log. */
  readonly log: readonly string[];
  readonly logTotal: number;
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
  };
}
