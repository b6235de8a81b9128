import { Redis } from 'ioredis';
import type { Config } from '../config.ts';
import type { Logger } from './log.ts';

/** What it takes to find the queue. */
export type QueueSettings = Pick<Config, 'REDIS_URL' | 'UNPACK_QUEUE' | 'UNPACK_JOB' | 'UNPACK_REDIS_PREFIX'>;

/** Longest pause between two tries to connect, in milliseconds. */
const MAX_RECONNECT_DELAY = 2000;

/**
 * A connection for a process that outlives Redis: commands wait while it is away and are sent when it is back.
 * (BullMQ demands `maxRetriesPerRequest: null` of connections that block.)
 */
export function patientConnection(url: string): Redis {
  return new Redis(url, { ...shared, maxRetriesPerRequest: null });
}

/**
 * A connection for a caller that wants to know: a command fails instead of waiting for Redis to come back, so that
 * nothing is done later that the caller has been told was not done.
 * @param timeout milliseconds that one command may take
 */
export function impatientConnection(url: string, timeout: number): Redis {
  return new Redis(url, {
    ...shared,
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    commandTimeout: timeout,
    connectTimeout: timeout,
  });
}

const shared = {
  retryStrategy: (times: number) => Math.min(times * 100, MAX_RECONNECT_DELAY),
  // a server that has lost its primary role answers READONLY: look for the new one
  reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
};

/** Whether an error is about the way to Redis and not about what was asked of it. */
export function isConnectionError(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = 'code' in error ? error.code : undefined;
  if (typeof code === 'string' && CONNECTION_CODES.has(code)) return true;
  if (error instanceof AggregateError) return error.errors.every(isConnectionError);
  // ioredis and BullMQ have no codes for these
  return (
    /^(Connection is closed|Command timed out|Stream isn't writeable|connect |read E|LOADING |MASTERDOWN )/.test(
      error.message,
    ) || error.name === 'MaxRetriesPerRequestError'
  );
}

const CONNECTION_CODES = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
]);

/** `redis://host:port/db` without user and password, for messages. */
export function displayUrl(url: string): string {
  const parsed = new URL(url);
  parsed.username = '';
  parsed.password = '';
  return parsed.href.replace(/\/$/, '');
}

/**
 * Says once that Redis is gone and once that it is back, however many connections notice it how often.
 * @returns the handler for `error` events of the connection's users
 */
export function logOutages(connection: Redis, url: string, log: Logger): (error: unknown) => void {
  let down = false;
  let since = 0;
  const gone = (why: string) => {
    if (down) return;
    down = true;
    since = Date.now();
    log.warn({ redis: displayUrl(url), why }, 'Redis is unreachable; running jobs go on, new ones wait for it');
  };
  connection.on('ready', () => {
    if (!down) return;
    down = false;
    log.info({ redis: displayUrl(url), seconds: Math.round((Date.now() - since) / 1000) }, 'Redis is back');
  });
  const onError = (error: unknown) => {
    const text = error instanceof Error ? error.message || error.name : String(error);
    if (isConnectionError(error)) gone(text);
    else log.error({ err: error }, `queue error: ${text}`);
  };
  connection.on('error', onError);
  return (error) => {
    // other connections may still be noticing what this one has recovered from
    if (isConnectionError(error) && connection.status === 'ready') return;
    onError(error);
  };
}
