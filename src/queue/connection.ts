import { readFileSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { type Config, ConfigError } from '../config.ts';
import { displayRedisUrl, readRedisUrl } from '../redis-address.ts';
import { addSecret } from '../secrets.ts';
import type { Logger } from './log.ts';

/** What it takes to reach Redis. */
export interface RedisSettings extends Pick<Config, 'REDIS_URL'> {
  readonly REDIS_PASSWORD_FILE?: string | undefined;
}

/** What it takes to find the queue. */
export type QueueSettings = RedisSettings & Pick<Config, 'UNPACK_QUEUE' | 'UNPACK_JOB' | 'UNPACK_REDIS_PREFIX'>;

/** Longest pause between two tries to connect, in milliseconds. */
const MAX_RECONNECT_DELAY = 2000;

/**
 * A connection for a process that outlives Redis: commands wait while it is away and are sent when it is back.
 * (BullMQ demands `maxRetriesPerRequest: null` of connections that block.)
 * @throws ConfigError
 */
export function patientConnection(settings: RedisSettings): Redis {
  return new Redis({ ...addressOptions(settings), ...shared, maxRetriesPerRequest: null });
}

/**
 * A connection for a caller that wants to know: a command fails instead of waiting for Redis to come back, so that
 * nothing is done later that the caller has been told was not done.
 * @param timeout milliseconds that one command may take
 * @throws ConfigError
 */
export function impatientConnection(settings: RedisSettings, timeout: number): Redis {
  return new Redis({
    ...addressOptions(settings),
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

/** Longest password file, in bytes: a longer one is another file. */
const MAX_PASSWORD_FILE = 4096;

/**
 * Where Redis is and who we are to it, for ioredis: read by ourselves, because ioredis takes any option out of a URL.
 * @throws ConfigError for a URL that cannot be read, and for a password file that cannot be used
 */
export function addressOptions({ REDIS_URL, REDIS_PASSWORD_FILE: file }: RedisSettings) {
  const address = readRedisUrl(REDIS_URL);
  if (typeof address === 'string') throw new ConfigError(`REDIS_URL: ${address}`);
  const { host, port, tls, db, family, username } = address;
  const password = file === undefined ? address.password : readPassword(file);
  addSecret(password);
  return {
    host,
    port,
    db,
    family,
    ...(tls ? { tls: {} } : {}),
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
  };
}

/** The password in REDIS_PASSWORD_FILE, without the end of its line. @throws ConfigError */
function readPassword(file: string): string {
  const wrong = (why: string) => new ConfigError(`REDIS_PASSWORD_FILE=${JSON.stringify(file)}: ${why}`);
  let text: string;
  try {
    const { size } = statOfFile(file);
    if (size > MAX_PASSWORD_FILE) throw wrong(`it has ${size} bytes, which is no password`);
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT') throw wrong('there is no such file');
    if (code === 'EACCES') throw wrong('this user may not read it');
    throw wrong(`it cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
  const password = text.replace(/\r?\n$/, '');
  if (password === '') throw wrong('it is empty: write the password of Redis into it');
  if (/[\r\n]/.test(password))
    throw wrong('it has more than one line: write the password of Redis into it, and nothing else');
  return password;
}

/** A pipe would be read once only, and a folder never. */
function statOfFile(file: string) {
  const stats = statSync(file);
  if (stats.isFile()) return stats;
  const kind = stats.isDirectory() ? 'a folder' : 'no regular file';
  throw new ConfigError(`REDIS_PASSWORD_FILE=${JSON.stringify(file)}: it is ${kind}, not a file with a password`);
}

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

export const NO_REDIS = 'Redis does not answer';

/** Whether Redis answers within `timeout` milliseconds. */
export async function answers(redis: Redis, timeout: number): Promise<boolean> {
  if (redis.status !== 'ready') return false;
  const answer = redis.ping().then(
    () => true,
    () => false,
  );
  return Promise.race([answer, sleep(timeout, false, { ref: false })]);
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
    log.warn({ redis: displayRedisUrl(url), why }, 'Redis is unreachable; running jobs go on, new ones wait for it');
  };
  connection.on('ready', () => {
    if (!down) return;
    down = false;
    log.info({ redis: displayRedisUrl(url), seconds: Math.round((Date.now() - since) / 1000) }, 'Redis is back');
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
