import { Redis, type RedisOptions } from 'ioredis';
import { ConfigError } from '../errors.ts';
import { type RedisAddress, readRedisUrl } from '../redis-address.ts';
import { type RedisSettings, redisContradictions } from '../redis-settings.ts';
import { connectorTo } from './redis-connector.ts';
import { readTls } from './redis-files.ts';
import { primaryFinder, serverLogin } from './redis-primary.ts';

/**
 * Connections to Redis: to the server in REDIS_URL, to the primary that its sentinels name, or to the node of a cluster that has
 * the queue. Nothing else makes connections.
 *
 * In each case a connection goes to one server, because a queue is in one slot of a cluster. So the client is always the same
 * (`Redis` of ioredis), and only its connector differs: it looks for the primary before each attempt to connect. The clients of
 * ioredis for sentinels and clusters are not used, because their errors do not name the cause, and BullMQ handles a cluster's
 * client as a special case.
 */
export type RedisConnection = Redis;

/** The part of BullMQ's Queue that makes keys. */
export interface Keys {
  toKey(name: string): string;
}

/** The settings to find the queue. */
export interface QueueSettings extends RedisSettings {
  /** The name of the queue. */
  readonly UNPACK_QUEUE: string;
  /** The name of its jobs. */
  readonly UNPACK_JOB: string;
  /** The prefix of every key of the queue in Redis. */
  readonly UNPACK_REDIS_PREFIX: string;
  /** How many replicas must have what a producer writes, before its call returns; default: 0. */
  readonly UNPACK_REDIS_REPLICAS?: number | undefined;
}

/** Maximum pause between two attempts to connect, in milliseconds. */
const MAX_RECONNECT_DELAY = 2000;
/** Time limit in milliseconds for one attempt to connect. */
const CONNECT_TIMEOUT = 5000;
/**
 * Milliseconds without an answer after which a patient connection connects again. Otherwise it would wait a quarter of an hour
 * for a primary whose machine was lost without closing connections. BullMQ's commands block for ten seconds at most.
 */
const SILENCE = 15_000;

/**
 * A connection that waits for Redis: during an outage commands are queued, and sent when Redis is back. Workers and `wait` use
 * it. (BullMQ requires `maxRetriesPerRequest: null` for blocking connections.)
 * @throws ConfigError
 */
export function patientConnection(settings: RedisSettings): RedisConnection {
  const address = addressOf(settings);
  return rightDatabase(
    new Redis({
      ...serverOptions(settings, address),
      ...reconnecting,
      reconnectOnError: address.kind === 'single' ? reconnecting.reconnectOnError : sendAgain,
      connectTimeout: CONNECT_TIMEOUT,
      socketTimeout: SILENCE,
      maxRetriesPerRequest: null,
    }),
  );
}

/**
 * A connection that does not wait: during an outage a command fails, and is never sent later. Producers and the board use it.
 * @param timeout time limit in milliseconds for one command
 * @throws ConfigError
 */
export function impatientConnection(settings: RedisSettings, timeout: number): RedisConnection {
  const address = addressOf(settings);
  return rightDatabase(
    new Redis({
      ...serverOptions(settings, address),
      ...reconnecting,
      reconnectOnError: address.kind === 'single' ? reconnecting.reconnectOnError : leavePrimary,
      maxRetriesPerRequest: 0,
      enableOfflineQueue: false,
      commandTimeout: timeout,
      connectTimeout: timeout,
      socketTimeout: timeout,
    }),
  );
}

/** Whether another server can become the primary. */
export function hasFailover({ REDIS_URL }: RedisSettings): boolean {
  const address = readRedisUrl(REDIS_URL);
  return typeof address === 'object' && address.kind !== 'single';
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
export function singleConnection(settings: RedisSettings, timeout: number): RedisConnection {
  return new Redis({
    ...serverOptions(settings, addressOf(settings)),
    lazyConnect: true,
    connectTimeout: timeout,
    commandTimeout: timeout,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
}

/** Errors of a server that is not, or not any more, the primary with the queue. Such a command has had no effect. */
const NOT_PRIMARY = /^(READONLY|MOVED|CLUSTERDOWN|MASTERDOWN) /;
/** The error of a primary that has lost its replicas (min-replicas-to-write), possibly because it is cut off. */
const NO_REPLICAS = /^NOREPLICAS /;

const reconnecting = {
  retryStrategy: (times: number) => Math.min(times * 100, MAX_RECONNECT_DELAY),
  // a former primary answers like this: reconnect to find the new one
  reconnectOnError: (error: Error): boolean | 2 => NOT_PRIMARY.test(error.message),
} satisfies RedisOptions;

/**
 * For a deployment with failovers. A command that was not for this server is sent again (2) to the new primary; the connector
 * reports an outage if there is none. A primary without replicas is left without that, so that the error is reported: if it was
 * cut off, there is another primary, and otherwise the connection goes to the same one again.
 */
const sendAgain = (error: Error): boolean | 2 =>
  NOT_PRIMARY.test(error.message) ? 2 : NO_REPLICAS.test(error.message);
const leavePrimary = (error: Error): boolean => NOT_PRIMARY.test(error.message) || NO_REPLICAS.test(error.message);

/** @throws ConfigError for a malformed URL, or for settings that contradict each other */
function addressOf(settings: RedisSettings): RedisAddress {
  const address = readRedisUrl(settings.REDIS_URL);
  if (typeof address === 'string') throw new ConfigError(`REDIS_URL: ${address}`);
  const [problem] = redisContradictions(settings);
  if (problem !== undefined) throw new ConfigError(problem);
  return address;
}

/**
 * Address and credentials for ioredis. REDIS_URL is not passed to ioredis, because it would read any option from the URL.
 * @throws ConfigError for a file that cannot be used
 */
function serverOptions(settings: RedisSettings, address: RedisAddress) {
  const { db, family } = address;
  const login = serverLogin(settings, address);
  const tls = () => readTls(settings);
  return {
    db,
    family,
    // the connector reads the files again; ioredis needs to know only whether TLS is used
    ...(tls() === undefined ? {} : { tls: {} }),
    ...login,
    Connector: connectorTo({ kind: address.kind, family, tls, primary: primaryFinder(settings, address, login) }),
  };
}

/**
 * Sends the commands of this turn of the event loop with one write, so that their answers arrive together, too. Call it only
 * before commands that come at the same time.
 */
export function gatherWrites(redis: RedisConnection): void {
  const stream: Redis['stream'] | undefined = redis.stream; // absent before the first connection
  if (stream === undefined || stream.writableCorked > 0) return;
  stream.cork();
  process.nextTick(() => stream.uncork());
}
