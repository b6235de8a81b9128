import { readFileSync, statSync } from 'node:fs';
import { createConnection } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { AbstractConnector, Redis } from 'ioredis';
import { errnoOf } from '../errno.ts';
import { ConfigError } from '../errors.ts';
import { type RedisAddress, readRedisUrl } from '../redis-address.ts';
import { addSecret } from '../secrets.ts';

/** Connections to Redis, with the address in REDIS_URL and the password in REDIS_PASSWORD_FILE. */

/** The settings to connect to Redis. Their meaning is in docs/operations.md. */
export interface RedisSettings {
  readonly REDIS_URL: string;
  readonly REDIS_PASSWORD_FILE?: string | undefined;
}

/** The settings to find the queue. */
export interface QueueSettings extends RedisSettings {
  /** The name of the queue. */
  readonly UNPACK_QUEUE: string;
  /** The name of its jobs. */
  readonly UNPACK_JOB: string;
  /** The prefix of every key of the queue in Redis. */
  readonly UNPACK_REDIS_PREFIX: string;
}

/** Maximum pause between two attempts to connect, in milliseconds. */
const MAX_RECONNECT_DELAY = 2000;
/** Time limit in milliseconds for one attempt to connect. */
const CONNECT_TIMEOUT = 5000;

/**
 * A connection that waits for Redis: during an outage commands are queued, and sent when Redis is back. Workers and `wait` use
 * it. (BullMQ requires `maxRetriesPerRequest: null` for blocking connections.)
 * @throws ConfigError
 */
export function patientConnection(settings: RedisSettings): Redis {
  return rightDatabase(
    new Redis({ ...addressOptions(settings), ...shared, connectTimeout: CONNECT_TIMEOUT, maxRetriesPerRequest: null }),
  );
}

/**
 * A connection that does not wait: during an outage a command fails, and is never sent later. Producers and the board use it.
 * @param timeout time limit in milliseconds for one command
 * @throws ConfigError
 */
export function impatientConnection(settings: RedisSettings, timeout: number): Redis {
  return rightDatabase(
    new Redis({
      ...addressOptions(settings),
      ...shared,
      maxRetriesPerRequest: 0,
      enableOfflineQueue: false,
      commandTimeout: timeout,
      connectTimeout: timeout,
    }),
  );
}

/** If the database does not exist, ioredis would continue in database 0: disconnects instead. */
function rightDatabase(redis: Redis): Redis {
  redis.on('error', (error: Error) => {
    if (/DB index|SELECT is not allowed/.test(error.message)) redis.disconnect();
  });
  return redis;
}

/**
 * A connection that never reconnects, for one check. `connect()` opens it.
 * @param timeout time limit in milliseconds for connecting, and for each command
 * @throws ConfigError
 */
export function singleConnection(settings: RedisSettings, timeout: number): Redis {
  return new Redis({
    ...addressOptions(settings),
    lazyConnect: true,
    connectTimeout: timeout,
    commandTimeout: timeout,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
}

const shared = {
  retryStrategy: (times: number) => Math.min(times * 100, MAX_RECONNECT_DELAY),
  // a former primary answers READONLY: reconnect to find the new primary
  reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
};

/** Maximum size of a password file in bytes. A larger file is the wrong file. */
const MAX_PASSWORD_FILE = 4096;

/**
 * Address and credentials for ioredis. REDIS_URL is not passed to ioredis, because it would read any option from the URL.
 * @throws ConfigError for a malformed URL or an unusable password file
 */
function addressOptions({ REDIS_URL, REDIS_PASSWORD_FILE: file }: RedisSettings) {
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
    Connector: MultiErrorConnector,
  };
}

/** Time limit in milliseconds for closing a connection; the same value as in ioredis. */
const DISCONNECT_TIMEOUT = 2000;

type SocketOptions = Pick<RedisAddress, 'host' | 'port' | 'family'> & { readonly tls?: object };

/**
 * Connects like the connector of ioredis, but handles every error of a stream. The connector of ioredis handles only the first
 * one, so a second error would crash the process. A TLS stream emits two errors if the client refuses the certificate and the
 * server answers with an alert.
 */
class MultiErrorConnector extends AbstractConnector {
  readonly #options: SocketOptions;

  constructor(options: unknown) {
    super(DISCONNECT_TIMEOUT);
    this.#options = options as SocketOptions; // ioredis passes the options of addressOptions
  }

  override async connect(): Promise<AbstractConnector['stream']> {
    const { host, port, family, tls } = this.#options;
    this.connecting = true;
    const address = { host, port, family };
    this.stream = tls === undefined ? createConnection(address) : connectTls({ ...address, ...tls });
    this.stream.on('error', (error: Error) => {
      this.firstError = error;
    });
    return this.stream;
  }
}

/**
 * Sends the commands of this turn of the event loop with one write, so that their answers arrive together, too. Call it only
 * before commands that come at the same time.
 */
export function gatherWrites(redis: Redis): void {
  const stream: Redis['stream'] | undefined = redis.stream; // absent before the first connection
  if (stream === undefined || stream.writableCorked > 0) return;
  stream.cork();
  process.nextTick(() => stream.uncork());
}

/** Reads the password in REDIS_PASSWORD_FILE, without the line break at its end. @throws ConfigError */
function readPassword(file: string): string {
  const wrong = (why: string) => new ConfigError(`REDIS_PASSWORD_FILE=${JSON.stringify(file)}: ${why}`);
  let text: string;
  try {
    const { size } = statOfFile(file);
    if (size > MAX_PASSWORD_FILE)
      throw wrong(`it has ${size} bytes, which is too long for a password: set the path of the file with the password`);
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const code = errnoOf(error);
    if (code === 'ENOENT') throw wrong('the file does not exist: create it, or correct the path');
    if (code === 'EACCES') throw wrong('this user has no permission to read the file: change its permissions');
    throw wrong(`the file cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
  const password = text.replace(/\r?\n$/, '');
  if (password === '') throw wrong('the file is empty: write the password of Redis into it');
  if (/[\r\n]/.test(password)) throw wrong('the file has more than one line: write only the password of Redis into it');
  return password;
}

/** Refuses pipes, which can be read only once, and folders. */
function statOfFile(file: string) {
  const stats = statSync(file);
  if (stats.isFile()) return stats;
  const kind = stats.isDirectory() ? 'a folder' : 'not a regular file';
  throw new ConfigError(
    `REDIS_PASSWORD_FILE=${JSON.stringify(file)}: it is ${kind}: set the path of a file with the password`,
  );
}
