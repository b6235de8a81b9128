import type { Job, Queue } from 'bullmq';
import type { Redis, Result } from 'ioredis';
import type { LockWait } from '../rootfs/lock-waits.ts';
import { cancelKey } from './cancellation.ts';

declare module 'ioredis' {
  interface RedisCommander<Context> {
    unpackdPark(...args: (string | number)[]): Result<null, Context>;
    unpackdUnpark(...args: (string | number)[]): Result<string[], Context>;
  }
}

/** Why a run is ended whose job gives its slot back: another process has locked a layer of it. */
export class HeldElsewhere extends Error {
  override readonly name = 'HeldElsewhere';
  readonly wait: LockWait;

  constructor(wait: LockWait) {
    super('another process has locked a layer of the job');
    this.wait = wait;
  }
}

/** Milliseconds between two looks of each worker at the parked jobs; and at the locks that those of its own wait for. */
const POLL = 1000;
const LOCK_POLL = 250;
/**
 * Milliseconds that BullMQ's delay of a parked job is longer than meant. When it ends, BullMQ puts the job to the end of the
 * queue; before that, any worker puts it to the front.
 */
const MARGIN = 5000;
/** Microseconds between two places: as fine as the scores of prioritized jobs can tell them apart. */
const STEP = 100;

/** Parked jobs that are looked at at once, and waiting ones that a returning job is compared with. */
const MOST = 1000;
const WINDOW = 256;

/** KEYS the job, the parked jobs; ARGV its ID, its place. */
const PARK = `
  if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('HSET', KEYS[1], 'unpackd:place', ARGV[2])
    redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
  end
`;

/**
 * KEYS the parked jobs, BullMQ's lists: delayed, wait, prioritized, marker, meta, events; ARGV what a job's key begins with,
 * what a cancel flag's key begins with, the time, the margin, how many parked jobs and waiting ones to look at, and then the
 * IDs of jobs that are to come back now. Returns the parked jobs that came back or are parked no more.
 *
 * A parked job whose time has come, or that somebody wants to cancel, goes to the front of those that wait: past those that
 * have come back before it and have a lower place, and before all others. One that BullMQ has put to the end of the queue
 * meanwhile is taken from there. As BullMQ does it, wait is taken from its right, and a score in prioritized is the priority
 * times 2^32 plus a counter; a job that comes back gets one just below the scores of its priority. The jobs of the next
 * higher priority would need more than a billion of them at once to reach as far.
 */
const UNPARK = `
  local parked, delayed, wait, prioritized = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
  local prefix, flag, now, margin = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
  local most, window = tonumber(ARGV[5]), tonumber(ARGV[6])
  local now_due = {}
  for i = 7, #ARGV do now_due[ARGV[i]] = true end

  local function toFront(id, place)
    local priority = tonumber(redis.call('HGET', prefix .. id, 'priority') or '0') or 0
    if priority > 0 then
      local below = 0x40000000 - math.floor(place / ${STEP}) % 0x40000000
      redis.call('ZADD', prioritized, priority * 0x100000000 - below, id)
      return
    end
    local front = redis.call('LRANGE', wait, -window, -1)
    for i = #front, 1, -1 do
      local other = tonumber(redis.call('HGET', prefix .. front[i], 'unpackd:place') or '')
      if not other or other > place then
        if i == #front then redis.call('RPUSH', wait, id) else redis.call('LINSERT', wait, 'AFTER', front[i], id) end
        return
      end
    end
    if #front == 0 then redis.call('RPUSH', wait, id) else redis.call('LINSERT', wait, 'BEFORE', front[1], id) end
  end

  local over, any = {}, false
  local all = redis.call('ZRANGE', parked, 0, most - 1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local id, place = all[i], tonumber(all[i + 1])
    local score = redis.call('ZSCORE', delayed, id)
    local back = false
    if score then
      if now_due[id] or score / 0x1000 - margin <= now or redis.call('EXISTS', flag .. id) == 1 then
        redis.call('ZREM', delayed, id)
        redis.call('HSET', prefix .. id, 'delay', 0)
        redis.call('XADD', KEYS[7], '*', 'event', 'waiting', 'jobId', id, 'prev', 'delayed')
        back = true
      end
    else
      back = redis.call('LREM', wait, 1, id) == 1 or redis.call('ZREM', prioritized, id) == 1
    end
    if back then
      toFront(id, place)
      any = true
    end
    if back or not score then
      redis.call('ZREM', parked, id)
      over[#over + 1] = id
    end
  end
  if any and redis.call('HEXISTS', KEYS[6], 'paused') == 0 then redis.call('ZADD', KEYS[5], 0, '0') end
  return over
`;

let lastPlace = 0;

/** Where a job stands among those that come back: microseconds, each one later than the one before. */
export function nextPlace(): number {
  lastPlace = Math.max(lastPlace + STEP, Date.now() * 1000);
  return lastPlace;
}

export interface ParkOptions {
  /** Milliseconds before the job is to come back. */
  readonly delay: number;
  /** As `nextPlace` gave it when the job was taken for the first time. */
  readonly place: number;
  /** Whether the job can come back before that; asked four times a second. */
  readonly isFree?: () => boolean;
}

/**
 * Jobs that were taken and given back, without an attempt being counted. They come back before all jobs that were added
 * after them, in the order in which they were taken.
 *
 * In Redis such a job is one of BullMQ's delayed ones, and its ID in `PREFIX:QUEUE:parked` with its place. Every worker
 * looks there once a second, so that it matters to no job what becomes of the worker that has parked it.
 */
export class ParkedJobs {
  readonly #redis: Redis;
  readonly #queue: Pick<Queue, 'toKey'>;
  readonly #onError: (error: unknown) => void;
  /** Those that this worker has parked and that wait for something on this machine. */
  readonly #watched = new Map<string, () => boolean>();
  #timers: NodeJS.Timeout[] = [];
  #looking = false;

  constructor(redis: Redis, queue: Pick<Queue, 'toKey'>, onError: (error: unknown) => void) {
    this.#redis = redis;
    this.#queue = queue;
    this.#onError = onError;
    redis.defineCommand('unpackdPark', { numberOfKeys: 2, lua: PARK });
    redis.defineCommand('unpackdUnpark', { numberOfKeys: 7, lua: UNPARK });
  }

  start(): void {
    this.#timers = [setInterval(() => void this.#look(), POLL), setInterval(() => this.#lookAtLocks(), LOCK_POLL)];
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer);
    this.#watched.clear();
  }

  /**
   * Gives a job that is active back. Whoever calls throws a DelayedError to BullMQ then.
   * @throws what BullMQ throws where the lock on the job is lost, or Redis
   */
  async park(job: Job, token: string | undefined, { delay, place, isFree }: ParkOptions): Promise<void> {
    const id = job.id ?? '';
    await job.moveToDelayed(Date.now() + delay + MARGIN, token);
    // a worker that dies between these two leaves a delayed job that comes back a little later, and without its place
    await this.#redis.unpackdPark(this.#queue.toKey(id), this.#queue.toKey('parked'), id, place);
    if (isFree !== undefined) this.#watched.set(id, isFree);
    // a cancel request does not move an active job, so the job is moved to the front now
    if (delay <= 0 || (await this.#redis.exists(cancelKey(this.#queue, id))) === 1) await this.#unpark([id]);
  }

  async #look(): Promise<void> {
    if (this.#looking || this.#redis.status !== 'ready') return;
    this.#looking = true;
    try {
      await this.#unpark([]);
    } catch (error) {
      this.#onError(error);
    } finally {
      this.#looking = false;
    }
  }

  #lookAtLocks(): void {
    if (this.#watched.size === 0 || this.#redis.status !== 'ready') return;
    const free = [...this.#watched].filter(([, isFree]) => isFree()).map(([id]) => id);
    if (free.length === 0) return;
    for (const id of free) this.#watched.delete(id);
    this.#unpark(free).catch((error: unknown) => {
      // it comes back in time, then
      this.#onError(error);
    });
  }

  async #unpark(ids: readonly string[]): Promise<void> {
    const lists = ['parked', 'delayed', 'wait', 'prioritized', 'marker', 'meta', 'events'];
    const keys = lists.map((name) => this.#queue.toKey(name));
    const prefixes = [this.#queue.toKey(''), cancelKey(this.#queue, '')];
    const over = await this.#redis.unpackdUnpark(...keys, ...prefixes, Date.now(), MARGIN, MOST, WINDOW, ...ids);
    for (const id of over) this.#watched.delete(id);
  }
}
