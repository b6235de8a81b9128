import type { Queue } from 'bullmq';
import type { Redis, Result } from 'ioredis';
import { cancelKey } from './cancellation.ts';

declare module 'ioredis' {
  interface RedisCommander<Context> {
    unpackdCancelFlags(
      ...args: (string | number)[]
    ): Result<[reason: string | null, seen: number, unflagged: string], Context>;
  }
}

/** Jobs that are looked at ahead, and how few are left when the next are looked at. */
const AHEAD = 128;
const LOW = 16;
/** Milliseconds that what was seen ahead counts: less than the two seconds within which a worker sees a flag. */
const AHEAD_COUNTS = 1000;

/**
 * KEYS one flag, the waiting jobs, the prioritized ones; ARGV what flags begin with, how many jobs to look at.
 * Returns the flag, how many jobs were looked at, and those of them that have none: as one text, because ioredis takes as
 * long to read a short one.
 */
const SCRIPT = `
  local next = redis.call('LRANGE', KEYS[2], -ARGV[2], -1)
  local more = ARGV[2] - #next
  if more > 0 then
    for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, more - 1)) do next[#next + 1] = id end
  end
  local unflagged = {}
  if #next > 0 then
    local keys = {}
    for i, id in ipairs(next) do keys[i] = ARGV[1] .. id end
    local flags = redis.call('MGET', unpack(keys))
    for i, id in ipairs(next) do
      if not flags[i] then unflagged[#unflagged + 1] = id end
    end
  end
  return {redis.call('GET', KEYS[1]), #next, table.concat(unflagged, '\\n')}
`;

/**
 * The cancel flags as a worker looks at them. A look at the flag of one job takes as long as BullMQ's own part of a job
 * that has nothing to do (measured), so it takes in those that will be taken next, and is not waited for as long as the
 * last one has some left.
 *
 * What was seen ahead is forgotten for a job whose cancelling is heard of (`forget`), and altogether after a second.
 */
export class CancelFlags {
  readonly #redis: Redis;
  readonly #queue: Pick<Queue, 'toKey'>;
  /** Jobs that had no flag when they were last looked at, and until when that counts. */
  #unflagged = new Set<string>();
  #until = 0;
  /** Whether there were more than these. */
  #hasMore = false;
  /** Looks on their way, and what was forgotten meanwhile: their answers may be older. */
  #looks = 0;
  readonly #forgotten = new Set<string>();

  readonly #now: () => number;

  /** @param now milliseconds of a clock that only goes forward */
  constructor(redis: Redis, queue: Pick<Queue, 'toKey'>, now = () => performance.now()) {
    this.#now = now;
    this.#redis = redis;
    this.#queue = queue;
    redis.defineCommand('unpackdCancelFlags', { numberOfKeys: 3, lua: SCRIPT });
  }

  /** Whether a job that has just been taken is known to have no flag. Says so once: a job that comes back is looked at. */
  isUnset(jobId: string): boolean {
    const unset = this.#unflagged.delete(jobId) && this.#now() < this.#until;
    if (unset && this.#unflagged.size < LOW && this.#hasMore && this.#looks === 0) this.#look(jobId).catch(() => {});
    return unset;
  }

  /** Why a job that has just been taken is to be cancelled; `null`: it is not. */
  async reason(jobId: string): Promise<string | null> {
    return this.isUnset(jobId) ? null : this.#look(jobId);
  }

  async #look(jobId: string): Promise<string | null> {
    const until = this.#now() + AHEAD_COUNTS;
    const keys = [cancelKey(this.#queue, jobId), this.#queue.toKey('wait'), this.#queue.toKey('prioritized')];
    this.#looks += 1;
    try {
      const [reason, seen, unflagged] = await this.#redis.unpackdCancelFlags(
        ...keys,
        cancelKey(this.#queue, ''),
        AHEAD,
      );
      this.#unflagged = new Set(unflagged.split('\n'));
      for (const id of this.#forgotten) this.#unflagged.delete(id);
      this.#until = until;
      this.#hasMore = seen === AHEAD;
      return reason;
    } finally {
      this.#looks -= 1;
      if (this.#looks === 0) this.#forgotten.clear();
    }
  }

  /** Somebody has asked for the end of a job: what was seen of it before counts no more. */
  forget(jobId: string): void {
    this.#unflagged.delete(jobId);
    if (this.#looks > 0) this.#forgotten.add(jobId);
  }

  async clear(jobId: string): Promise<void> {
    await this.#redis.del(cancelKey(this.#queue, jobId));
  }
}
