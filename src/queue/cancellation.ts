import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { UnpackError } from '../errors.ts';

/**
 * How a job is cancelled from any process: a flag in Redis that lasts, and a message that makes it prompt. The flag is
 * what counts: workers read it before they start a job and every two seconds while they run one, and delete it when the
 * job has ended.
 *
 *     KEY      PREFIX:QUEUE:cancel:JOB    the reason as text; expires after two weeks
 *     CHANNEL  PREFIX:QUEUE:cancel        the job's ID
 *
 * A channel of its own, and not the queue's events: who listens to those is sent every event of every job, results too.
 */
export function cancelChannel(queue: Pick<Queue, 'toKey'>): string {
  return queue.toKey('cancel');
}

/** Milliseconds; as long as a failed job is kept at most. */
export const CANCEL_FLAG_LIFE = 14 * 24 * 3_600_000;
export const DEFAULT_CANCEL_REASON = 'cancelled on request';

export function cancelKey(queue: Pick<Queue, 'toKey'>, jobId: string): string {
  return queue.toKey(`cancel:${jobId}`);
}

/** The reasons why jobs have been asked to stop, in the order of the IDs; `null` where a job has not. */
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
