import type { Job, Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { cancelKey } from './cancellation.ts';
import { JobNotFoundError, unreadableJob } from './errors.ts';

/**
 * Retries failed jobs by hand, for `unpackd retry`, `UnpackQueue.retry` and the board. A retried job gets all its attempts again.
 */

export type RetryOutcome =
  | { readonly id: string; readonly retried: true }
  | { readonly id: string; readonly retried: false; readonly code: RetryRefusal; readonly message: string };

/** `SAME_WORK_ADDED`: a job for the same work was added meanwhile, and waits or runs. */
export type RetryRefusal = 'JOB_NOT_FOUND' | 'JOB_NOT_FAILED' | 'JOB_UNREADABLE' | 'SAME_WORK_ADDED';

/** The states of a job that still does its work, in BullMQ's words. */
const UNFINISHED = new Set(['waiting', 'prioritized', 'delayed', 'active', 'waiting-children']);

/**
 * Retries the jobs. Jobs that cannot be retried are refused with a sentence, and do not change. Of several jobs for the same work
 * only the first is retried. Call it with at most some hundred jobs at a time, because it works on all of them at once.
 *
 * A retried job goes to the end of the queue, or behind the jobs of its priority. It is again the job that `add` finds for the
 * same work. A cancel request that came before the failure is forgotten.
 * @param claimed the deduplication IDs of jobs that were retried before, with the IDs of the jobs
 * @throws errors of Redis
 */
export async function retryJobs(
  queue: Queue,
  redis: Redis,
  ids: readonly string[],
  claimed: Map<string, string> = new Map(),
): Promise<RetryOutcome[]> {
  return Promise.all(ids.map((id) => retryJob(queue, redis, id, claimed)));
}

async function retryJob(queue: Queue, redis: Redis, id: string, claimed: Map<string, string>): Promise<RetryOutcome> {
  const job = await readJob(queue, id);
  if (job === 'unreadable') return refused(id, 'JOB_UNREADABLE', unreadableJob(id));
  if (job === undefined) return refused(id, 'JOB_NOT_FOUND', new JobNotFoundError(id).message);
  if ((await redis.zscore(queue.toKey('failed'), id)) === null) return notFailed(queue, id);
  const work = deduplicationOf(job);
  if (work !== undefined) {
    const added = await unfinishedJobOf(queue, work, id);
    // nothing may be awaited between this look and the claim
    const other = added ?? claimed.get(work) ?? id;
    if (other !== id) return sameWork(id, other);
    claimed.set(work, id);
  }
  // before the job waits, because a worker can take it at once
  await redis.del(cancelKey(queue, id));
  await redis.hdel(queue.toKey(id), 'unpackd:place');
  try {
    await job.retry('failed', { resetAttemptsMade: true });
  } catch (error) {
    if (await redis.zscore(queue.toKey('failed'), id).then((score) => score !== null)) throw error;
    // somebody else has retried or removed the job just now
    return notFailed(queue, id);
  }
  // after the retry: a key that leads to a failed job would swallow new jobs for the same work
  if (work !== undefined) await redis.set(queue.toKey(`de:${work}`), id, 'NX');
  return { id, retried: true };
}

async function readJob(queue: Queue, id: string): Promise<Job | undefined | 'unreadable'> {
  return queue.getJob(id).catch((error: unknown) => {
    // BullMQ parses every field as JSON
    if (error instanceof SyntaxError) return 'unreadable' as const;
    throw error;
  });
}

/** The deduplication ID of a job whose key lives as long as the job waits or runs. */
function deduplicationOf({ deduplicationId, opts }: Job): string | undefined {
  return opts.deduplication?.ttl === undefined ? deduplicationId : undefined;
}

/** The job for the same work that waits or runs; `undefined` if there is none. */
async function unfinishedJobOf(queue: Queue, work: string, id: string): Promise<string | undefined> {
  const other = await queue.getDeduplicationJobId(work);
  if (other === null || other === id) return undefined;
  return UNFINISHED.has(await queue.getJobState(other)) ? other : undefined;
}

async function notFailed(queue: Queue, id: string): Promise<RetryOutcome> {
  const state = await queue.getJobState(id);
  if (state === 'unknown') return refused(id, 'JOB_NOT_FOUND', new JobNotFoundError(id).message);
  const what = state === 'active' ? 'runs' : state === 'completed' ? 'has completed' : `is ${state}`;
  return refused(id, 'JOB_NOT_FAILED', `job ${id} ${what}: only a failed job can be retried`);
}

function sameWork(id: string, other: string): RetryOutcome {
  return refused(
    id,
    'SAME_WORK_ADDED',
    `job ${id} is not needed, because job ${other} for the same image waits or runs: follow that job`,
  );
}

function refused(id: string, code: RetryRefusal, message: string): RetryOutcome {
  return { id, retried: false, code, message };
}
