import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';

/** Where a job is in the queue, for `UnpackQueue.status`. Each field is absent in the states that have no such thing. */
export interface JobPlace {
  /** How many jobs workers take before this one, if no others are put before it. */
  readonly ahead?: number | undefined;
  /** When a delayed job waits for a worker again. */
  readonly due?: Date | undefined;
  /** For how many milliseconds a running job is still locked by its worker; negative if its lock has expired. */
  readonly lockLeft?: number | undefined;
}

/** BullMQ's scores of delayed jobs are milliseconds since 1970 times this number, plus a counter. */
const DELAY_UNIT = 0x1000;

/** @param state of the job, in BullMQ's words @throws errors of Redis */
export async function jobPlace(
  queue: Pick<Queue, 'toKey'>,
  redis: Redis,
  id: string,
  state: string,
): Promise<JobPlace> {
  const wait = queue.toKey('wait');
  if (state === 'active') return { lockLeft: await redis.pttl(queue.toKey(`${id}:lock`)) };
  if (state === 'delayed') {
    const score = await redis.zscore(queue.toKey('delayed'), id);
    return score === null ? {} : { due: new Date(Math.floor(Number(score) / DELAY_UNIT)) };
  }
  if (state === 'prioritized') {
    // jobs without a priority come first
    const [before, rank] = await Promise.all([redis.llen(wait), redis.zrank(queue.toKey('prioritized'), id)]);
    return rank === null ? {} : { ahead: before + rank };
  }
  if (state === 'waiting') {
    // BullMQ takes jobs from the right side
    const [length, index] = await Promise.all([redis.llen(wait), redis.lpos(wait, id)]);
    return index === null ? {} : { ahead: Math.max(0, length - 1 - index) };
  }
  return {};
}
