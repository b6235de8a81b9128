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

/** Jobs whose flags are read ahead, and the number of unused answers at which the next flags are read. */
const AHEAD = 128;
const LOW = 16;
/** Milliseconds that an answer is valid: less than the two seconds within which a worker must see a flag. */
const VALID = 1000;

/**
 * KEYS: a flag, the waiting jobs, the prioritized jobs. ARGV: the prefix of the flags' keys, the number of jobs to read ahead.
 * Returns the flag, the number of jobs read ahead, and the IDs of those without a flag, joined into one text, because ioredis
 * parses one text faster than a list.
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
 * (measured), so each read includes the flags of the jobs that come next. As long as such answers are left, no job waits.
 *
 * An answer is dropped when a cancel request for its job arrives (`forget`), and after a second.
 */
export class CancelFlags {
  readonly #redis: Redis;
  readonly #queue: Pick<Queue, 'toKey'>;
  /** Jobs that had no flag when they were last read, and until when that is valid. */
  #unflagged = new Set<string>();
  #until = 0;
  /** Whether more jobs were waiting than were read. */
  #hasMore = false;
  /** Reads that are pending. */
  #reads = 0;
  /** Jobs that were dropped while reads are pending, because the answers of these reads may be older. */
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

  /** Deletes the flag of a job that has ended. */
  async clear(jobId: string): Promise<void> {
    await this.#redis.del(cancelKey(this.#queue, jobId));
  }
}
