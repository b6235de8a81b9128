import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { UnpackError } from '../errors.ts';

/**
 * How any process cancels a job: it sets a flag in Redis, and publishes a message so that the worker reacts at once. Workers
 * read the flag before they start a job and every two seconds while they run one, so a lost message only causes a delay. They
 * delete the flag when the job has completed or failed.
 *
 *     KEY      PREFIX:QUEUE:cancel:JOB    the reason as text; expires after two weeks
 *     CHANNEL  PREFIX:QUEUE:cancel        the ID of the job
 *
 * The message has a channel of its own, because a subscriber of the queue's events would get every event of every job.
 */

export function cancelChannel(queue: Pick<Queue, 'toKey'>): string {
  return queue.toKey('cancel');
}

/** Lifetime of a flag in milliseconds: as long as a failed job can be kept. */
export const CANCEL_FLAG_LIFE = 14 * 24 * 3_600_000;
export const DEFAULT_CANCEL_REASON = 'cancelled on request';

export function cancelKey(queue: Pick<Queue, 'toKey'>, jobId: string): string {
  return queue.toKey(`cancel:${jobId}`);
}

/** The reasons why jobs are cancelled, in the order of the IDs; `null` for a job that is not cancelled. */
export async function cancelReasons(
  redis: Redis,
  queue: Pick<Queue, 'toKey'>,
  jobIds: readonly string[],
): Promise<(string | null)[]> {
  return jobIds.length === 0 ? [] : redis.mget(jobIds.map((id) => cancelKey(queue, id)));
}

export function cancelledError(reason: string): UnpackError {
  return new UnpackError(
    'CANCELLED',
    reason === DEFAULT_CANCEL_REASON ? 'the job was cancelled on request' : `the job was cancelled: ${reason}`,
  );
}
