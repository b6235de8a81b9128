import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { FailureCode } from '../errors.ts';
import { errorFromReason } from './failure.ts';
import { JOB_STATES, type JobState } from './job-status.ts';
import { oldestWaiting } from './oldest-waiting.ts';
import { imageOf } from './parse-payload.ts';
import { readWorkers, type WorkerView } from './worker-presence.ts';

/**
 * What happens in the queue now, for `unpackd queue`, the board and its metrics. Nothing here depends on the number of jobs
 * except `failuresSince`, which reads the jobs that failed in that time.
 */

export interface QueueOverview {
  readonly counts: JobCounts;
  /** Whether the queue is paused, so that workers take no jobs. */
  readonly paused: boolean;
  readonly oldestWaiting: WaitingJob | undefined;
  readonly workers: readonly WorkerView[];
  readonly failuresOfLastHour: readonly FailureCount[];
}

/** The number of jobs in each state. */
export type JobCounts = Readonly<Record<JobState, number>>;

/** A job that no worker has taken yet. */
export interface WaitingJob {
  readonly id: string;
  /** Absent for a job of another program. */
  readonly image: string | undefined;
  readonly added: Date;
  /** When it could start for the first time: when it was added, or when the delay that its producer set was over. */
  readonly ready: Date;
}

export interface FailureCount {
  /** Failures that BullMQ or another program reported count as INTERNAL. */
  readonly code: FailureCode;
  readonly count: number;
}

const HOUR = 3_600_000;

/** @throws errors of Redis */
export async function queueOverview(queue: Queue, redis: Redis): Promise<QueueOverview> {
  const [counts, paused, oldestWaiting, workers, failuresOfLastHour] = await Promise.all([
    jobCounts(queue),
    queue.isPaused(),
    oldestWaitingJob(queue, redis),
    readWorkers(redis, queue),
    failuresSince(queue, redis, Date.now() - HOUR),
  ]);
  return { counts, paused, oldestWaiting, workers, failuresOfLastHour };
}

/** The number of jobs in each state. @throws errors of Redis */
export async function jobCounts(queue: Queue): Promise<JobCounts> {
  const counts = await queue.getJobCounts(...JOB_STATES);
  const entries = JOB_STATES.map((state) => [state, counts[state] ?? 0]);
  // the type of fromEntries has no keys
  return Object.fromEntries(entries) as Record<JobState, number>;
}

/** As `oldestWaiting`, with the image of the job. @throws errors of Redis */
export async function oldestWaitingJob(queue: Queue, redis: Redis): Promise<WaitingJob | undefined> {
  const found = await oldestWaiting(redis, queue);
  if (found === undefined) return undefined;
  const { id, added, ready } = found;
  const data = await redis.hget(queue.toKey(id), 'data');
  return { id, image: imageOf(parsed(data ?? '')), added: new Date(added), ready: new Date(ready) };
}

/** Number of jobs that one call of Redis reads. */
const PAGE = 1000;

/**
 * KEYS: BullMQ's failed. ARGV: the prefix of the jobs' keys, the first time, the last time, the number of jobs to skip, the number
 * to read. Returns for each job its ID and the code at the start of its reason; "" if there is none.
 */
const FAILED = `
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[2], ARGV[3], 'LIMIT', ARGV[4], ARGV[5])) do
    local reason = redis.call('HGET', ARGV[1] .. id, 'failedReason') or ''
    found[#found + 1] = id
    found[#found + 1] = string.match(reason, '^%[[A-Z_]+%]') or ''
  end
  return found
`;

export interface FailedJob {
  readonly id: string;
  readonly code: FailureCode;
}

/**
 * The failed jobs of a time that are still kept (UNPACK_KEEP_FAILED), oldest first, in pages of a thousand. A job that leaves the
 * list while it is read can hide another one.
 * @param since, until milliseconds since 1970
 * @throws errors of Redis
 */
export async function* failedJobs(
  queue: Pick<Queue, 'toKey'>,
  redis: Redis,
  since: number,
  until: number,
): AsyncGenerator<readonly FailedJob[]> {
  for (let from = 0; ; from += PAGE) {
    // the result is what the script returns
    const found = (await redis.eval(
      FAILED,
      1,
      queue.toKey('failed'),
      queue.toKey(''),
      since,
      until,
      from,
      PAGE,
    )) as string[];
    const jobs: FailedJob[] = [];
    for (let place = 0; place + 1 < found.length; place += 2) {
      const [id = '', code = ''] = found.slice(place, place + 2);
      jobs.push({ id, code: errorFromReason(`${code} `).code });
    }
    if (jobs.length > 0) yield jobs;
    if (jobs.length < PAGE) return;
  }
}

/** How many jobs failed for good since this time, by code, the most frequent first. @throws errors of Redis */
export async function failuresSince(queue: Pick<Queue, 'toKey'>, redis: Redis, since: number): Promise<FailureCount[]> {
  const counts = new Map<FailureCode, number>();
  for await (const jobs of failedJobs(queue, redis, since, Number.MAX_SAFE_INTEGER)) {
    for (const { code } of jobs) counts.set(code, (counts.get(code) ?? 0) + 1);
  }
  return [...counts]
    .map(([code, count]) => ({ code, count }))
    .sort((one, other) => other.count - one.count || (one.code < other.code ? -1 : 1));
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}
