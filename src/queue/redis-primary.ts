import { Redis } from 'ioredis';
import { displayServer, type RedisAddress, type RedisServer, readRedisUrl } from '../redis-address.ts';
import type { RedisSettings } from '../redis-settings.ts';
import { addSecret } from '../secrets.ts';
import { connectorTo } from './redis-connector.ts';
import {
  CLUSTER_DOWN,
  DiagnosedError,
  diagnoseRedisError,
  type ErrorSource,
  type RedisDiagnosis,
} from './redis-diagnosis.ts';
import { readPassword, readTls } from './redis-files.ts';

/** User and password for a server. */
export interface Login {
  readonly username?: string;
  readonly password?: string;
}

/** Time limit in milliseconds for connecting to a sentinel or a node, and for its answer. */
const LIMIT = 2000;

/** What a sentinel or a node answers: the primary, and where else to ask later. */
interface Answer {
  readonly primary: RedisServer;
  readonly others: readonly RedisServer[];
}

/**
 * How to find the server that has the queue. Every call asks all sentinels or nodes in REDIS_URL at the same time, and takes the
 * first answer. If none of them answers, it asks those that an earlier answer named.
 * @returns a function that throws a DiagnosedError if there is no primary
 * @throws ConfigError for a file that cannot be used
 */
export function primaryFinder(
  settings: RedisSettings,
  address: RedisAddress,
  login: Login,
): () => Promise<RedisServer> {
  const { kind, servers, primaryName = '' } = address;
  const [only] = servers;
  if (kind === 'single') return async () => only ?? Promise.reject(new Error('REDIS_URL names no server'));
  const asked: Asked =
    kind === 'sentinel'
      ? {
          ...sentinelLogin(settings),
          settings,
          address,
          source: 'sentinel',
          ask: (redis) => askSentinel(redis, primaryName),
        }
      : {
          ...login,
          settings,
          address,
          source: 'node',
          ask: (redis, at) => askNode(redis, at, settings.UNPACK_REDIS_PREFIX ?? ''),
        };
  let known: readonly RedisServer[] = [];
  return async () => {
    const answer = await firstAnswer(asked, servers).catch((error: unknown) =>
      // the error about the servers in REDIS_URL helps more
      firstAnswer(asked, known).catch(() => Promise.reject(error)),
    );
    known = answer.others;
    return answer.primary;
  };
}

interface Asked extends Login {
  readonly settings: RedisSettings;
  readonly address: RedisAddress;
  readonly source: ErrorSource & ('sentinel' | 'node');
  readonly ask: (redis: Redis, at: RedisServer) => Promise<Answer>;
}

function sentinelLogin(settings: RedisSettings): Login {
  const password = readPassword(settings, 'REDIS_SENTINEL_PASSWORD_FILE', 'the sentinels');
  const { REDIS_SENTINEL_USERNAME: username } = settings;
  return { ...(username === undefined ? {} : { username }), ...(password === undefined ? {} : { password }) };
}

/** @throws DiagnosedError */
async function firstAnswer(asked: Asked, servers: readonly RedisServer[]): Promise<Answer> {
  const failed: RedisDiagnosis[] = [];
  const answers = servers.map((server) =>
    askServer(asked, server, (redis) => asked.ask(redis, server)).catch((error: unknown) => {
      failed.push(diagnosisOf(asked.source, server, error));
      throw error;
    }),
  );
  return Promise.any(answers).catch(() => {
    throw new DiagnosedError(noAnswer(asked.source, failed));
  });
}

/** A fault that a person must correct is reported first, and one that none of the servers can be reached last. */
function noAnswer(source: Asked['source'], failed: readonly RedisDiagnosis[]): RedisDiagnosis {
  const found = failed.find(({ kind }) => kind === 'misconfigured') ?? failed.find(({ kind }) => kind === 'refusing');
  const reasons = failed.map(({ sentence }) => sentence).join('; ');
  return found ?? { kind: 'unreachable', sentence: `is not available: none of its ${source}s answers (${reasons})` };
}

function diagnosisOf(source: Asked['source'], server: RedisServer, error: unknown): RedisDiagnosis {
  if (error instanceof DiagnosedError) return error.diagnosis;
  const diagnosis = diagnoseRedisError(error, source);
  if (diagnosis !== undefined && diagnosis.kind !== 'unreachable') return aboutServer(source, server, diagnosis);
  const why = error instanceof Error && error.message !== '' ? error.message : String(error);
  return { kind: 'unreachable', sentence: `${displayServer(server)}: ${why}` };
}

/** The diagnosis of a sentinel or node, as one of the whole. */
export function aboutServer(
  source: Asked['source'],
  server: RedisServer,
  { kind, sentence }: RedisDiagnosis,
): RedisDiagnosis {
  return { kind, sentence: `has a ${source}, ${displayServer(server)}, that ${sentence}` };
}

export interface ServerAnswer<T> {
  readonly server: RedisServer;
  /** `undefined` if the server does not answer. */
  readonly answer: T | undefined;
}

/** Asks each sentinel or node that REDIS_URL names, for `unpackd doctor`. @throws ConfigError */
export async function askEach<T>(
  settings: RedisSettings,
  ask: (redis: Redis) => Promise<T>,
): Promise<ServerAnswer<T>[]> {
  const address = readRedisUrl(settings.REDIS_URL);
  if (typeof address === 'string') return [];
  const login = address.kind === 'sentinel' ? sentinelLogin(settings) : serverLogin(settings, address);
  return Promise.all(
    address.servers.map(async (server) => ({
      server,
      answer: await askServer({ ...login, settings, address }, server, ask).catch(() => undefined),
    })),
  );
}

/** User and password of the servers with data. @throws ConfigError */
export function serverLogin(settings: RedisSettings, { username, password: inUrl }: RedisAddress): Login {
  const password = readPassword(settings, 'REDIS_PASSWORD_FILE', 'Redis') ?? inUrl;
  addSecret(password);
  return { ...(username === undefined ? {} : { username }), ...(password === undefined ? {} : { password }) };
}

async function askServer<T>(
  { settings, address, username, password }: Login & Pick<Asked, 'settings' | 'address'>,
  server: RedisServer,
  ask: (redis: Redis) => Promise<T>,
): Promise<T> {
  const tls = () => readTls(settings);
  const redis = new Redis({
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    ...(address.tls ? { tls: {} } : {}),
    Connector: connectorTo({ kind: 'single', family: address.family, tls, primary: async () => server }),
    lazyConnect: true,
    enableReadyCheck: false,
    retryStrategy: () => null,
    connectTimeout: LIMIT,
    commandTimeout: LIMIT,
    maxRetriesPerRequest: 0,
  });
  // the event has the cause; the error of the rejected promise is only "connection is closed"
  let failure: unknown;
  redis.on('error', (error) => {
    failure ??= error;
  });
  try {
    await redis.connect();
    return await ask(redis);
  } catch (error) {
    throw failure ?? error;
  } finally {
    redis.disconnect();
  }
}

/** redis.io, "Sentinel client spec". */
async function askSentinel(redis: Redis, name: string): Promise<Answer> {
  const [found, others] = await Promise.all([
    redis.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name) as Promise<[host: string, port: string] | null>, // the reply has no type
    // the user can lack the permission
    (redis.call('SENTINEL', 'SENTINELS', name) as Promise<unknown>).catch(() => []),
  ]);
  if (found === null) {
    throw new DiagnosedError({
      kind: 'misconfigured',
      sentence: `is not known to its sentinels as ${name}: correct the name after the hosts in REDIS_URL (SENTINEL MASTERS lists the names)`,
    });
  }
  return {
    primary: { host: found[0], port: Number(found[1]) },
    others: Array.isArray(others) ? others.flatMap(sentinelAt) : [],
  };
}

/** The address of another sentinel: a list of fields and values, or an object (RESP3). */
function sentinelAt(fields: unknown): RedisServer[] {
  if (typeof fields !== 'object' || fields === null) return [];
  const list: unknown[] = Array.isArray(fields) ? fields : Object.entries(fields).flat();
  const after = (field: string) => list[list.indexOf(field) + 1];
  const [host, port] = [after('ip'), Number(after('port'))];
  return typeof host === 'string' && port > 0 ? [{ host, port }] : [];
}

/** A range of slots in the answer of CLUSTER SLOTS: first and last slot, the primary, its replicas. */
type SlotRange = readonly [first: number, last: number, ...nodes: (readonly [host: string | null, port: number])[]];

/** redis.io, "CLUSTER SLOTS". */
async function askNode(redis: Redis, asked: RedisServer, prefix: string): Promise<Answer> {
  const [info, slot, ranges] = await Promise.all([
    redis.cluster('INFO') as Promise<string>, // the replies have no types
    redis.cluster('KEYSLOT', prefix) as Promise<number>,
    redis.cluster('SLOTS') as Promise<unknown> as Promise<SlotRange[]>,
  ]);
  const [, , primary] = ranges.find(([first, last]) => first <= slot && slot <= last) ?? [];
  if (primary === undefined || /^cluster_state:fail/m.test(info)) throw new DiagnosedError(CLUSTER_DOWN);
  // a node that does not know its address, or must not tell it, names none: it is the address that was asked
  const serverOf = ([host, port]: readonly [string | null, number]): RedisServer => ({
    host: host === null || host === '' || host === '?' ? asked.host : host,
    port,
  });
  return { primary: serverOf(primary), others: ranges.flatMap(([, , ...nodes]) => nodes.map(serverOf)) };
}
