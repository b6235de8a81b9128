import type { Redis, Result } from 'ioredis';
import type { Keys } from './connection.ts';

/**
 * How many jobs waited, were delayed and ran, for each minute of the last week. BullMQ counts only jobs that have finished. The first
 * heartbeat of a worker in a minute measures, and a board measures, too, so that it does not matter which of them run: a minute has
 * the largest numbers that anybody has seen in it.
 *
 *     PREFIX:QUEUE:history    a ring of 10,080 places of 16 bytes, 161,280 bytes. A place has the minute since 1970, and the
 *                             numbers of waiting (with prioritized), delayed and active jobs: unsigned integers of 32 bits, big
 *                             endian. It expires a week after the last sample
 *
 * Measured: a sample takes Redis 15 µs, to read a week 43 µs. The key takes 328 KB, because Redis keeps room to grow.
 */

declare module 'ioredis' {
  interface RedisCommander<Context> {
    unpackdSample(...args: (string | number)[]): Result<null, Context>;
  }
}

const MINUTE = 60_000;
/** The number of minutes that are kept: a week. */
export const KEPT = 7 * 24 * 60;
/** Bytes of a minute. */
const SIZE = 16;

export function historyKey(queue: Keys): string {
  return queue.toKey('history');
}

/** The keys that SAMPLE reads and writes. */
export function sampleKeys(queue: Keys): string[] {
  return [
    historyKey(queue),
    ...['wait', 'paused', 'prioritized', 'delayed', 'active'].map((name) => queue.toKey(name)),
  ];
}

/**
 * A function of Lua. `keys` are those of `sampleKeys`. If `once`, a minute that somebody has measured is left as it is.
 */
export const SAMPLE = `
  local function sample(keys, now, once)
    local minute = math.floor(now / ${MINUTE})
    local from = minute % ${KEPT} * ${SIZE}
    local known = redis.call('GETRANGE', keys[1], from, from + ${SIZE - 1})
    local seen = {0, 0, 0, 0}
    if #known == ${SIZE} then seen = {struct.unpack('>I4I4I4I4', known)} end
    if seen[1] ~= minute then seen = {minute, 0, 0, 0} elseif once then return end
    local waiting = redis.call('LLEN', keys[2]) + redis.call('LLEN', keys[3]) + redis.call('ZCARD', keys[4])
    local delayed, active = redis.call('ZCARD', keys[5]), redis.call('LLEN', keys[6])
    redis.call('SETRANGE', keys[1], from, struct.pack('>I4I4I4I4', minute,
      math.max(seen[2], waiting), math.max(seen[3], delayed), math.max(seen[4], active)))
    redis.call('PEXPIRE', keys[1], ${KEPT * MINUTE})
  end
`;

/** The samples of a queue, for the board. */
export class QueueHistory {
  readonly #redis: Redis;
  readonly #queue: Keys;
  #timer: NodeJS.Timeout | undefined;

  constructor(redis: Redis, queue: Keys) {
    this.#redis = redis;
    this.#queue = queue;
    redis.defineCommand('unpackdSample', { numberOfKeys: 6, lua: `${SAMPLE} sample(KEYS, tonumber(ARGV[1]), false)` });
  }

  /** Measures every minute until `stop`. A minute without Redis is left out. */
  start(): void {
    this.#timer = setInterval(() => {
      if (this.#redis.status === 'ready') this.sample(Date.now()).catch(() => {});
    }, MINUTE).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Measures once. @param now milliseconds since 1970 @throws errors of Redis */
  async sample(now: number): Promise<void> {
    await this.#redis.unpackdSample(...sampleKeys(this.#queue), now);
  }

  /**
   * The largest numbers in each of `bins` equal intervals that end with this minute; `undefined` where nothing was measured.
   * @param minutes of the whole time; a multiple of `bins`, and not more than KEPT
   * @throws errors of Redis
   */
  async largest(minutes: number, bins: number, now: number): Promise<QueueSample[]> {
    const ring = (await this.#redis.getBuffer(historyKey(this.#queue))) ?? Buffer.alloc(0);
    const last = Math.floor(now / MINUTE);
    const width = minutes / bins;
    return Array.from({ length: bins }, (_, bin): QueueSample => {
      let found: QueueSample;
      for (let minute = last - minutes + 1 + bin * width; minute <= last - minutes + (bin + 1) * width; minute++) {
        found = larger(found, readMinute(ring, minute));
      }
      return found;
    });
  }
}

/** `undefined` if it was not measured. */
export type QueueSample = { readonly waiting: number; readonly delayed: number; readonly active: number } | undefined;

function readMinute(ring: Buffer, minute: number): QueueSample {
  const from = (minute % KEPT) * SIZE;
  if (from + SIZE > ring.length || ring.readUInt32BE(from) !== minute) return undefined;
  const [waiting, delayed, active] = [4, 8, 12].map((place) => ring.readUInt32BE(from + place)) as [
    number,
    number,
    number,
  ]; // `as`: of three
  return { waiting, delayed, active };
}

function larger(one: QueueSample, other: QueueSample): QueueSample {
  if (one === undefined || other === undefined) return one ?? other;
  const of = (name: 'waiting' | 'delayed' | 'active') => Math.max(one[name], other[name]);
  return { waiting: of('waiting'), delayed: of('delayed'), active: of('active') };
}
