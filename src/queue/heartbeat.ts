import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis, Result } from 'ioredis';
import type { Keys } from './connection.ts';
import type { WorkerRecord } from './formats.ts';
import { SAMPLE, sampleKeys } from './queue-history.ts';
import { HEARTBEAT, RECORD_LIFE, workerKey, workersKey } from './worker-presence.ts';

declare module 'ioredis' {
  interface RedisCommander<Context> {
    unpackdHeartbeat(...args: (string | number)[]): Result<null, Context>;
  }
}

/** The largest random part of the pause between two heartbeats, so that workers that started together spread. */
const JITTER = 0.1;
/** Number of old IDs that a heartbeat checks for an expired record. */
const CHECKED = 4;

/** KEYS: the record, the IDs, then `sampleKeys`. ARGV: the ID, the record, its lifetime, the time, the prefix of the records' keys. */
const BEAT = `
  ${SAMPLE}
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, ${CHECKED - 1})) do
    if redis.call('EXISTS', ARGV[5] .. id) == 0 then redis.call('ZREM', KEYS[2], id) end
  end
  sample({unpack(KEYS, 3)}, tonumber(ARGV[4]), true)
`;

export interface HeartbeatOptions {
  readonly redis: Redis;
  readonly queue: Keys;
  /** What the worker does now. A rejection counts as a missed heartbeat. */
  readonly record: () => Promise<WorkerRecord>;
  readonly onError: (error: unknown) => void;
}

/**
 * Writes the record of a worker every ten seconds, until `stop`. Once a minute it also writes how long the queue is
 * (`queue-history.ts`). It never fails a job and keeps no process alive. Without a connection it sends nothing, so that no
 * heartbeats queue up during an outage; the first one after the outage follows at most eleven seconds later.
 */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #id = randomBytes(8).toString('hex');
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #again = false;
  #stopped = false;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    options.redis.defineCommand('unpackdHeartbeat', { numberOfKeys: 8, lua: BEAT });
  }

  /** The ID of the record. */
  get id(): string {
    return this.#id;
  }

  start(): void {
    this.beat();
    this.#schedule();
  }

  /** Writes the record now, because something has changed that people wait for. */
  beat(): void {
    if (this.#stopped) return;
    // one at a time; the next one has the newest state
    if (this.#running !== undefined) {
      this.#again = true;
      return;
    }
    this.#again = false;
    this.#running = this.#write()
      .catch(this.#options.onError)
      .finally(() => {
        this.#running = undefined;
        if (this.#again) this.beat();
      });
  }

  /** Stops, and removes the record. Without a connection the record stays until it expires. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#running;
    const { redis, queue, onError } = this.#options;
    if (redis.status !== 'ready') return;
    const removed = [redis.del(workerKey(queue, this.#id)), redis.zrem(workersKey(queue), this.#id)];
    await Promise.all(removed).catch(onError);
  }

  #schedule(): void {
    const pause = HEARTBEAT * (1 + JITTER * (2 * Math.random() - 1));
    this.#timer = setTimeout(() => {
      this.beat();
      this.#schedule();
    }, pause).unref();
  }

  async #write(): Promise<void> {
    const { redis, queue, record } = this.#options;
    if (redis.status !== 'ready') return;
    const text = JSON.stringify(await record());
    const prefix = workerKey(queue, '');
    if (this.#stopped) return;
    await redis.unpackdHeartbeat(
      `${prefix}${this.#id}`,
      workersKey(queue),
      ...sampleKeys(queue),
      this.#id,
      text,
      RECORD_LIFE,
      Date.now(),
      prefix,
    );
  }
}

/**
 * Reads something that can hang, as a disk does, with a time limit in milliseconds. There is one read at a time: while one hangs,
 * no further one starts. The result is `undefined` if it takes longer or fails.
 */
export function unlessSlow<T>(read: () => Promise<T>, limit: number): () => Promise<T | undefined> {
  let reading: Promise<T | undefined> | undefined;
  return () => {
    reading ??= read()
      .catch(() => undefined)
      .finally(() => {
        reading = undefined;
      });
    return Promise.race([reading, sleep(limit, undefined, { ref: false })]);
  };
}
