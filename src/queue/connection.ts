import { readFileSync, statSync } from 'node:fs';
import { createConnection } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { AbstractConnector, Redis } from 'ioredis';
import { type Config, ConfigError } from '../config.ts';
import { type RedisAddress, readRedisUrl } from '../redis-address.ts';
import { addSecret } from '../secrets.ts';

/** What it takes to reach Redis. */
export interface RedisSettings extends Pick<Config, 'REDIS_URL'> {
  readonly REDIS_PASSWORD_FILE?: string | undefined;
}

/** What it takes to find the queue. */
export type QueueSettings = RedisSettings & Pick<Config, 'UNPACK_QUEUE' | 'UNPACK_JOB' | 'UNPACK_REDIS_PREFIX'>;

/** Longest pause between two tries to connect, in milliseconds. */
const MAX_RECONNECT_DELAY = 2000;
/** Milliseconds that one try to connect may take. */
const CONNECT_TIMEOUT = 5000;

/**
 * A connection for a process that outlives Redis: commands wait while it is away and are sent when it is back.
 * (BullMQ demands `maxRetriesPerRequest: null` of connections that block.)
 * @throws ConfigError
 */
export function patientConnection(settings: RedisSettings): Redis {
  return rightDatabase(
    new Redis({ ...addressOptions(settings), ...shared, connectTimeout: CONNECT_TIMEOUT, maxRetriesPerRequest: null }),
  );
}

/**
 * A connection for a caller that wants to know: a command fails instead of waiting for Redis to come back, so that
 * nothing is done later that the caller has been told was not done.
 * @param timeout milliseconds that one command may take
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

/** ioredis goes on in database 0 where there is none with the number that was asked for. */
function rightDatabase(redis: Redis): Redis {
  redis.on('error', (error: Error) => {
    if (/DB index|SELECT is not allowed/.test(error.message)) redis.disconnect();
  });
  return redis;
}

/**
 * A connection for one look: it is made by `connect()`, once, and every command has `timeout` milliseconds.
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
  // a server that has lost its primary role answers READONLY: look for the new one
  reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
};

/** Longest password file, in bytes: a longer one is another file. */
const MAX_PASSWORD_FILE = 4096;

/**
 * Where Redis is and who we are to it, for ioredis: read by ourselves, because ioredis takes any option out of a URL.
 * @throws ConfigError for a URL that cannot be read, and for a password file that cannot be used
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
    Connector: LastingConnector,
  };
}

/** Milliseconds that a connection gets to end in order, as ioredis has it. */
const DISCONNECT_TIMEOUT = 2000;

type SocketOptions = Pick<RedisAddress, 'host' | 'port' | 'family'> & { readonly tls?: object };

/**
 * Connects as ioredis's own connector does. That one hears only the first error of a stream, and a second one ends the
 * process: one of TLS has two where a certificate is refused and the server answers to that.
 */
class LastingConnector extends AbstractConnector {
  readonly #options: SocketOptions;

  constructor(options: unknown) {
    super(DISCONNECT_TIMEOUT);
    this.#options = options as SocketOptions; // ioredis gives what addressOptions has made
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

const GATHERING = new WeakSet<Redis['stream']>();

/**
 * Lets commands that are written until the running promises have come to rest go out by one write, and their answers come
 * back together. For commands that are known to come at the same time: others would wait for each other in vain.
 */
export function gatherWrites(redis: Redis): void {
  const stream: Redis['stream'] | undefined = redis.stream; // absent before the first connection
  if (stream === undefined || GATHERING.has(stream)) return;
  GATHERING.add(stream);
  stream.cork();
  process.nextTick(() => {
    GATHERING.delete(stream);
    stream.uncork();
  });
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
