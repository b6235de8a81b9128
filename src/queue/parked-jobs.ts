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

/** Aborts a run whose layer is locked by another process. The job is then parked. */
export class LayerLocked extends Error {
  override readonly name = 'LayerLocked';
  readonly wait: LockWait;

  constructor(wait: LockWait) {
    super('another process has locked a layer of the job');
    this.wait = wait;
  }
}

/** Milliseconds between two checks of all parked jobs, and of the locks that the jobs of this worker wait for. */
const POLL = 1000;
const LOCK_POLL = 250;
/**
 * Milliseconds that are added to BullMQ's delay of a parked job. After that delay BullMQ puts the job at the back of the queue,
 * so a worker must put the job at the front earlier.
 */
const MARGIN = 5000;
/** Microseconds between two places: the resolution of the scores of prioritized jobs. */
const STEP = 100;

/** Maximum number of parked jobs in one check, and of waiting jobs that a returning job is compared with. */
const MAX_PARKED = 1000;
const MAX_COMPARED = 256;

/** KEYS: the job, the parked jobs. ARGV: the job's ID, its place. */
const PARK = `
  if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('HSET', KEYS[1], 'unpackd:place', ARGV[2])
    redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
  end
`;

/**
 * KEYS: the parked jobs, and BullMQ's keys delayed, wait, prioritized, marker, meta, events. ARGV: the prefix of the jobs'
 * keys, the prefix of the cancel flags' keys, the time, the margin, the maximum number of parked and waiting jobs to check, and
 * then the IDs of jobs that return now. Returns the IDs of jobs that have returned or are not parked any more.
 *
 * A parked job that is due or cancelled returns to the front of the waiting jobs, behind returned jobs with a lower place. If
 * BullMQ has put the job at the back of the queue in the meantime, the job is moved from there. BullMQ takes jobs from the
 * right side of `wait`. A score in `prioritized` is the priority times 2^32 plus a counter; a returned job gets a score below
 * all others of its priority. Scores of two priorities could overlap only after a billion jobs of one priority.
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

  local returned, any = {}, false
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
      returned[#returned + 1] = id
    end
  end
  if any and redis.call('HEXISTS', KEYS[6], 'paused') == 0 then redis.call('ZADD', KEYS[5], 0, '0') end
  return returned
`;

export interface ParkOptions {
  /** Milliseconds until the job returns. */
  readonly delay: number;
  /** The value of `nextPlace` when the job was first taken. */
  readonly place: number;
  /** Whether the job can return earlier. It is called four times a second. */
  readonly isFree?: () => boolean;
}

/**
 * Jobs that were given back without counting an attempt. They return before all jobs that were added later, in the order in
 * which they were taken.
 *
 * In Redis a parked job is a delayed job of BullMQ, and its ID is in the sorted set `PREFIX:QUEUE:parked` with its place. Every
 * worker checks that set once a second, so a job returns even if the worker that parked it has exited.
 */
export class ParkedJobs {
  readonly #redis: Redis;
  readonly #queue: Pick<Queue, 'toKey'>;
  readonly #onError: (error: unknown) => void;
  /** Jobs that this worker has parked until a lock on this machine is free. */
  readonly #watched = new Map<string, () => boolean>();
  #timers: NodeJS.Timeout[] = [];
  #lastPlace = 0;
  #checking = false;

  constructor(redis: Redis, queue: Pick<Queue, 'toKey'>, onError: (error: unknown) => void) {
    this.#redis = redis;
    this.#queue = queue;
    this.#onError = onError;
    redis.defineCommand('unpackdPark', { numberOfKeys: 2, lua: PARK });
    redis.defineCommand('unpackdUnpark', { numberOfKeys: 7, lua: UNPARK });
  }

  /** A place behind all places that this worker has assigned before: microseconds since 1970. */
  nextPlace(): number {
    this.#lastPlace = Math.max(this.#lastPlace + STEP, Date.now() * 1000);
    return this.#lastPlace;
  }

  start(): void {
    this.#timers = [setInterval(() => void this.#check(), POLL), setInterval(() => this.#checkLocks(), LOCK_POLL)];
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer);
    this.#watched.clear();
  }

  /**
   * Parks an active job. After that the caller must throw a DelayedError to BullMQ.
   * @throws errors of BullMQ, if the lock on the job is lost, and of Redis
   */
  async park(job: Job, token: string | undefined, { delay, place, isFree }: ParkOptions): Promise<void> {
    const id = job.id ?? '';
    await job.moveToDelayed(Date.now() + delay + MARGIN, token);
    // if the worker dies here, the job returns a little later, without its place
    await this.#redis.unpackdPark(this.#queue.toKey(id), this.#queue.toKey('parked'), id, place);
    if (isFree !== undefined) this.#watched.set(id, isFree);
    // a cancel request does not move an active job, so the job is moved to the front now
    if (delay <= 0 || (await this.#redis.exists(cancelKey(this.#queue, id))) === 1) await this.#unpark([id]);
  }

  async #check(): Promise<void> {
    if (this.#checking || this.#redis.status !== 'ready') return;
    this.#checking = true;
    try {
      await this.#unpark([]);
    } catch (error) {
      this.#onError(error);
    } finally {
      this.#checking = false;
    }
  }

  #checkLocks(): void {
    if (this.#watched.size === 0 || this.#redis.status !== 'ready') return;
    const free = [...this.#watched].filter(([, isFree]) => isFree()).map(([id]) => id);
    if (free.length === 0) return;
    for (const id of free) this.#watched.delete(id);
    this.#unpark(free).catch((error: unknown) => {
      // the job then returns after its delay
      this.#onError(error);
    });
  }

  async #unpark(ids: readonly string[]): Promise<void> {
    const lists = ['parked', 'delayed', 'wait', 'prioritized', 'marker', 'meta', 'events'];
    const keys = lists.map((name) => this.#queue.toKey(name));
    const prefixes = [this.#queue.toKey(''), cancelKey(this.#queue, '')];
    const returned = await this.#redis.unpackdUnpark(
      ...keys,
      ...prefixes,
      Date.now(),
      MARGIN,
      MAX_PARKED,
      MAX_COMPARED,
      ...ids,
    );
    for (const id of returned) this.#watched.delete(id);
  }
}
