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

/**
 * AHEAD: the number of jobs whose flags are read in advance. LOW: with fewer unused answers than this, the next flags are read.
 */
const AHEAD = 128;
const LOW = 16;
/** Lifetime of an answer in milliseconds. It is below two seconds, because a worker must react to a flag within two seconds. */
const VALID = 1000;

/**
 * KEYS: a flag, the waiting jobs, the prioritized jobs. ARGV: the prefix of the flags' keys, the number of jobs to read in
 * advance. Returns the flag, the number of jobs that were read in advance, and the IDs of the jobs without a flag. The IDs are
 * joined into one text, because ioredis parses one text faster than a list.
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
 * Reads the cancel flags for a worker. Reading one flag takes as long as all of BullMQ's work for a job on the fast path
 * (measured), so each read includes the flags of the next 128 jobs. A job whose flag was read in advance starts without a
 * request to Redis.
 *
 * An answer is dropped when a cancel request for its job arrives (`forget`), and after a second.
 */
export class CancelFlags {
  readonly #redis: Redis;
  readonly #queue: Pick<Queue, 'toKey'>;
  /** Jobs that had no flag in the last read, and the time when these answers expire. */
  #unflagged = new Set<string>();
  #until = 0;
  /** Whether more jobs were waiting than were read. */
  #hasMore = false;
  /** Number of pending reads. */
  #reads = 0;
  /** Jobs that were dropped while reads are pending, because the answers of these reads are possibly older. */
  readonly #forgotten = new Set<string>();

  readonly #now: () => number;

  /** @param now milliseconds of a monotonic clock */
  constructor(redis: Redis, queue: Pick<Queue, 'toKey'>, now = () => performance.now()) {
    this.#now = now;
    this.#redis = redis;
    this.#queue = queue;
    redis.defineCommand('unpackdCancelFlags', { numberOfKeys: 3, lua: SCRIPT });
  }

  /** Whether a job is known to have no flag. The answer is used once, so that a job that comes back is read again. */
  isUnset(jobId: string): boolean {
    const unset = this.#unflagged.delete(jobId) && this.#now() < this.#until;
    if (unset && this.#unflagged.size < LOW && this.#hasMore && this.#reads === 0) this.#read(jobId).catch(() => {});
    return unset;
  }

  /** The reason why a job is cancelled; `null` if it is not. */
  async reason(jobId: string): Promise<string | null> {
    return this.isUnset(jobId) ? null : this.#read(jobId);
  }

  async #read(jobId: string): Promise<string | null> {
    const until = this.#now() + VALID;
    const keys = [cancelKey(this.#queue, jobId), this.#queue.toKey('wait'), this.#queue.toKey('prioritized')];
    this.#reads += 1;
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
      this.#reads -= 1;
      if (this.#reads === 0) this.#forgotten.clear();
    }
  }

  /** A cancel request for this job has arrived: drops the earlier answer. */
  forget(jobId: string): void {
    this.#unflagged.delete(jobId);
    if (this.#reads > 0) this.#forgotten.add(jobId);
  }

  /** Deletes the flag of a finished job. */
  async clear(jobId: string): Promise<void> {
    await this.#redis.del(cancelKey(this.#queue, jobId));
  }
}
