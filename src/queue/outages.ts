import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { displayRedisUrl } from '../redis-address.ts';
import type { RedisSettings } from '../redis-settings.ts';
import { QueueUnavailableError } from './errors.ts';
import type { Logger } from './log.ts';
import { diagnoseRedisError, errorSource, type RedisDiagnosis, whyNotReady } from './redis-diagnosis.ts';
import { probeRedis } from './redis-probe.ts';

const NO_ANSWER = 'Redis does not answer';
/** If a connection is open but not ready for this number of milliseconds, the reason is requested from the server. */
const UNREADY = 1500;
/** Milliseconds between two checks whether an outage is over. */
const CHECK = 500;
/** After this number of milliseconds without an error an outage is over. */
const ERROR_FREE = 3000;
/**
 * The same for wrong settings. The time is longer, because with wrong settings errors occur only when the worker checks for
 * stalled jobs.
 */
const LONG_ERROR_FREE = 40_000;
/**
 * For this number of milliseconds after the main connection has recovered, other connections can still report the same outage.
 */
const LATE = 5000;

export interface OutageOptions {
  readonly redis: Redis;
  readonly settings: RedisSettings;
  readonly log: Logger;
  /** What continues and what waits during an outage, for the first log line of the outage. */
  readonly meanwhile: string;
  /** A key to write as a test. It expires after a second. */
  readonly key: string;
}

/**
 * The outages of Redis in one process, whose connections report each outage many times. This class logs one line when an outage
 * begins and one line when Redis works again. It logs a line in between only if a person must change a setting.
 */
export class Outages {
  readonly #options: OutageOptions;
  readonly #first = Promise.withResolvers<never>();
  #down: { readonly since: number; kind: RedisDiagnosis['kind']; last: number; sentence: string } | undefined;
  #begun = 0;
  #wasUp = false;
  #ready = 0;
  /** Unknown errors that have been logged, so that a repeated error is logged once. */
  readonly #logged = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #unready: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: OutageOptions) {
    this.#options = options;
    this.#first.promise.catch(() => {});
    const { redis } = options;
    redis.on('error', (error) => this.record(error));
    redis.on('connect', () => {
      this.#unready = setTimeout(() => void this.#askWhy(), UNREADY).unref();
    });
    redis.on('close', () => clearTimeout(this.#unready));
    redis.on('ready', () => {
      clearTimeout(this.#unready);
      this.#ready = Date.now();
      // the lost connection is back
      if (this.#down?.kind === 'unreachable') this.#down.last = 0;
      void this.#check();
    });
  }

  /**
   * What is wrong with Redis; `undefined` without an outage. It continues a sentence that begins with "Redis at
   * redis://host:port".
   */
  get diagnosis(): string | undefined {
    return this.#down?.sentence;
  }

  /** The number of outages that have begun. */
  get begun(): number {
    return this.#begun;
  }

  /** Why Redis cannot be used; `undefined` if it answers within `timeout` milliseconds. */
  async whyNotReady(timeout: number): Promise<string | undefined> {
    if (this.#down !== undefined) return `Redis ${this.#down.sentence}`;
    const { redis } = this.#options;
    if (redis.status !== 'ready') return NO_ANSWER;
    const answer = redis.ping().then(
      () => undefined,
      () => NO_ANSWER,
    );
    return Promise.race([answer, sleep(timeout, NO_ANSWER, { ref: false })]);
  }

  /** Rejects with a QueueUnavailableError if Redis has never worked for this process and cannot work with these settings. */
  get misconfigured(): Promise<never> {
    return this.#first.promise;
  }

  /** Redis has worked, so a later error is an outage and not a wrong setting. */
  markWorking(): void {
    this.#wasUp = true;
  }

  /** Records an error of any connection or call. Errors that are not about Redis are logged, each once. */
  readonly record = (error: unknown): void => {
    if (this.#closed) return;
    const diagnosis = diagnoseRedisError(error, errorSource(this.#options.settings));
    if (diagnosis === undefined) {
      this.#log(error);
      return;
    }
    if (diagnosis.kind === 'unreachable' && this.#isLate()) return;
    if (this.#down !== undefined) this.#down.last = Date.now();
    this.#begin(diagnosis);
  };

  close(): void {
    this.#closed = true;
    clearTimeout(this.#unready);
    clearInterval(this.#timer);
  }

  /** Whether the error belongs to an outage that the main connection has just recovered from. */
  #isLate(): boolean {
    return this.#down === undefined && this.#options.redis.status === 'ready' && Date.now() - this.#ready < LATE;
  }

  #begin(diagnosis: RedisDiagnosis): void {
    const { settings, log, meanwhile } = this.#options;
    const known = this.#down;
    // during an outage, only a wrong setting is logged again
    if (known !== undefined && (known.kind === 'misconfigured' || diagnosis.kind !== 'misconfigured')) {
      if (known.kind === 'unreachable') known.kind = diagnosis.kind;
      return;
    }
    const now = Date.now();
    if (known === undefined) this.#begun += 1;
    this.#down = { since: known?.since ?? now, kind: diagnosis.kind, last: now, sentence: diagnosis.sentence };
    if (!this.#wasUp && diagnosis.kind === 'misconfigured') {
      this.#first.reject(unavailable(settings, diagnosis.sentence));
      return;
    }
    const begin = diagnosis.kind === 'unreachable' ? 'Redis is unreachable' : `Redis ${diagnosis.sentence}`;
    log.warn({ redis: displayRedisUrl(settings.REDIS_URL), why: diagnosis.sentence }, `${begin}; ${meanwhile}`);
    this.#timer ??= setInterval(() => void this.#check(), CHECK).unref();
    if (diagnosis.kind === 'unreachable' && known === undefined) void this.#probe();
  }

  /** Checks for TLS on one side only: in this case the server closes the connection without an error. */
  async #probe(): Promise<void> {
    const { settings } = this.#options;
    const found = await probeRedis(settings).catch(() => undefined);
    if (found !== undefined && this.#down !== undefined) this.#begin(found);
  }

  /** Closes the outage if Redis works. */
  async #check(): Promise<void> {
    const { redis, key, settings, log } = this.#options;
    const down = this.#down;
    if (down === undefined || redis.status !== 'ready') return;
    try {
      // after a lost connection one answer is enough; after a refused command a write must succeed
      if (down.kind === 'unreachable') await redis.ping();
      else await redis.set(key, '', 'PX', 1000);
    } catch (error) {
      this.record(error);
      return;
    }
    if (this.#down !== down || Date.now() - down.last < (down.kind === 'misconfigured' ? LONG_ERROR_FREE : ERROR_FREE))
      return;
    this.#down = undefined;
    clearInterval(this.#timer);
    this.#timer = undefined;
    const seconds = Math.round((Date.now() - down.since) / 1000);
    log.info({ redis: displayRedisUrl(settings.REDIS_URL), seconds }, 'Redis is back');
  }

  async #askWhy(): Promise<void> {
    const { redis } = this.#options;
    if (redis.status !== 'connect') return;
    const diagnosis = await whyNotReady(redis);
    if (redis.status === 'connect' && !this.#closed) this.#begin(diagnosis);
  }

  #log(error: unknown): void {
    const { log } = this.#options;
    const text = error instanceof Error ? error.message || error.name : String(error);
    if (this.#logged.has(text)) return;
    if (this.#logged.size < 1000) this.#logged.add(text);
    log.error({ err: error }, `queue error: ${text}`);
  }
}

/** The error of a call that failed because of Redis. */
export function unavailable({ REDIS_URL }: RedisSettings, sentence: string, cause?: unknown): QueueUnavailableError {
  return new QueueUnavailableError(
    `Redis at ${displayRedisUrl(REDIS_URL)} ${sentence}`,
    cause === undefined ? {} : { cause },
  );
}
