import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { displayRedisUrl } from '../redis-address.ts';
import type { RedisSettings } from './connection.ts';
import { QueueUnavailableError } from './errors.ts';
import type { Logger } from './log.ts';
import { probeRedis } from './redis-probe.ts';
import { type RedisTrouble, redisTrouble, whyNotReady } from './redis-trouble.ts';

const NO_ANSWER = 'Redis does not answer';
/** Milliseconds after which a connection that is made and not ready is asked why. */
const UNREADY = 1500;
/** Milliseconds between two looks whether an outage is over. */
const LOOK = 500;
/** Milliseconds without a complaint after which a Redis that takes writes again is believed. */
const QUIET = 3000;
/** As long for what does not end by itself, because then complaints come as seldom as the worker looks for stalled jobs. */
const LONG_QUIET = 40_000;
/** Milliseconds that other connections may take to notice what one has recovered from. */
const LATE = 5000;

export interface OutageOptions {
  readonly redis: Redis;
  readonly settings: RedisSettings;
  readonly log: Logger;
  /** What goes on and what waits meanwhile, for the line that begins an outage. */
  readonly meanwhile: string;
  /** A key that may be written to see whether writes are taken; it is gone a second later. */
  readonly key: string;
}

/**
 * Whether Redis does what it is asked, as all connections of a process have it: they notice one outage several times each.
 * It is one line in the log when it begins and one when it has ended; a second one between them only where it turns out
 * that it will not end by itself.
 */
export class Outages {
  readonly #options: OutageOptions;
  readonly #first = Promise.withResolvers<never>();
  #down: { readonly since: number; kind: RedisTrouble['kind']; last: number; sentence: string } | undefined;
  #wasUp = false;
  #ready = 0;
  /** Unknown errors that have been told, so that one which comes every second is one line. */
  readonly #told = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #unready: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: OutageOptions) {
    this.#options = options;
    this.#first.promise.catch(() => {});
    const { redis } = options;
    redis.on('error', (error) => this.notice(error));
    redis.on('connect', () => {
      this.#unready = setTimeout(() => void this.#askWhy(), UNREADY).unref();
    });
    redis.on('close', () => clearTimeout(this.#unready));
    redis.on('ready', () => {
      clearTimeout(this.#unready);
      this.#ready = Date.now();
      // the connection that was missed is there
      if (this.#down?.kind === 'away') this.#down.last = 0;
      void this.#look();
    });
  }

  /** Why Redis is not used now, to follow "Redis at redis://host:port"; `undefined` where nothing is known against it. */
  get trouble(): string | undefined {
    return this.#down?.sentence;
  }

  /** Why Redis can't be used now; `undefined` where it can, and answers within `timeout` milliseconds. */
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

  /** Rejects with a QueueUnavailableError when Redis has never worked for this process and never will as it is set. */
  get hopeless(): Promise<never> {
    return this.#first.promise;
  }

  /** Redis has done what it was asked: what comes later is an outage and no wrong setting. */
  worked(): void {
    this.#wasUp = true;
  }

  /** Takes note of an error of any connection or call. Errors that are not about Redis get a line each, once. */
  readonly notice = (error: unknown): void => {
    if (this.#closed) return;
    const trouble = redisTrouble(error);
    if (trouble === undefined) {
      this.#tell(error);
      return;
    }
    if (trouble.kind === 'away' && this.#isLate()) return;
    if (this.#down !== undefined) this.#down.last = Date.now();
    this.#gone(trouble);
  };

  close(): void {
    this.#closed = true;
    clearTimeout(this.#unready);
    clearInterval(this.#timer);
  }

  /** Whether the main connection has just come back, and the error is one that another connection had before. */
  #isLate(): boolean {
    return this.#down === undefined && this.#options.redis.status === 'ready' && Date.now() - this.#ready < LATE;
  }

  #gone(trouble: RedisTrouble): void {
    const { settings, log, meanwhile } = this.#options;
    const known = this.#down;
    // within one outage, only what a person must mend is news
    if (known !== undefined && (known.kind === 'settings' || trouble.kind !== 'settings')) {
      if (known.kind === 'away') known.kind = trouble.kind;
      return;
    }
    const now = Date.now();
    this.#down = { since: known?.since ?? now, kind: trouble.kind, last: now, sentence: trouble.sentence };
    if (!this.#wasUp && trouble.kind === 'settings') {
      this.#first.reject(unavailable(settings, trouble.sentence));
      return;
    }
    const begin = trouble.kind === 'away' ? 'Redis is unreachable' : `Redis ${trouble.sentence}`;
    log.warn({ redis: displayRedisUrl(settings.REDIS_URL), why: trouble.sentence }, `${begin}; ${meanwhile}`);
    this.#timer ??= setInterval(() => void this.#look(), LOOK).unref();
    if (trouble.kind === 'away' && known === undefined) void this.#probe();
  }

  /** A connection that is closed without a word may be one without TLS to a server with, or the other way round. */
  async #probe(): Promise<void> {
    const { settings } = this.#options;
    const found = await probeRedis(settings.REDIS_URL).catch(() => undefined);
    if (found !== undefined && this.#down !== undefined) this.#gone(found);
  }

  /** Ends the outage where Redis does what it is asked. */
  async #look(): Promise<void> {
    const { redis, key, settings, log } = this.#options;
    const down = this.#down;
    if (down === undefined || redis.status !== 'ready') return;
    try {
      // after a lost connection any answer ends the outage; after a refusal a write must succeed
      if (down.kind === 'away') await redis.ping();
      else await redis.set(key, '', 'PX', 1000);
    } catch (error) {
      this.notice(error);
      return;
    }
    if (this.#down !== down || Date.now() - down.last < (down.kind === 'settings' ? LONG_QUIET : QUIET)) return;
    this.#down = undefined;
    clearInterval(this.#timer);
    this.#timer = undefined;
    const seconds = Math.round((Date.now() - down.since) / 1000);
    log.info({ redis: displayRedisUrl(settings.REDIS_URL), seconds }, 'Redis is back');
  }

  async #askWhy(): Promise<void> {
    const { redis } = this.#options;
    if (redis.status !== 'connect') return;
    const trouble = await whyNotReady(redis);
    if (redis.status === 'connect' && !this.#closed) this.#gone(trouble);
  }

  #tell(error: unknown): void {
    const { log } = this.#options;
    const text = error instanceof Error ? error.message || error.name : String(error);
    if (this.#told.has(text)) return;
    if (this.#told.size < 1000) this.#told.add(text);
    log.error({ err: error }, `queue error: ${text}`);
  }
}

/** The error of a call that Redis did not do. */
export function unavailable({ REDIS_URL }: RedisSettings, sentence: string, cause?: unknown): QueueUnavailableError {
  return new QueueUnavailableError(
    `Redis at ${displayRedisUrl(REDIS_URL)} ${sentence}`,
    cause === undefined ? {} : { cause },
  );
}
