import { displayRedisUrl, type RedisAddress, readRedisUrl } from './redis-address.ts';
import { addSecret } from './secrets.ts';

/**
 * The settings to connect to Redis. `src/config.ts` and `src/queue/connection.ts` check whether they contradict each other. Their
 * meaning is in docs/operations.md.
 */
export interface RedisSettings {
  readonly REDIS_URL: string;
  readonly REDIS_PASSWORD_FILE?: string | undefined;
  readonly REDIS_SENTINEL_USERNAME?: string | undefined;
  readonly REDIS_SENTINEL_PASSWORD_FILE?: string | undefined;
  readonly REDIS_TLS_CA?: string | undefined;
  readonly REDIS_TLS_CERT?: string | undefined;
  readonly REDIS_TLS_KEY?: string | undefined;
  readonly REDIS_TLS_KEY_PASSWORD_FILE?: string | undefined;
  readonly REDIS_TLS_SERVER_NAME?: string | undefined;
  /** Required for a cluster, because the node with the queue is found by its keys. */
  readonly UNPACK_REDIS_PREFIX?: string | undefined;
}

/** The part of a key that a cluster hashes, if the key has one (redis.io, "Redis cluster specification", hash tags). */
const HASH_TAG = /^[^{]*\{[^}]+\}/;

/** Finds settings of Redis that are valid alone but contradict each other. Each is a sentence with what to write. */
export function redisContradictions(settings: RedisSettings): string[] {
  const address = readRedisUrl(settings.REDIS_URL);
  if (typeof address === 'string') return [];
  addSecret(address.password);
  return [
    ...credentialProblems(settings, address),
    ...tlsProblems(settings, address),
    ...prefixProblems(settings, address),
  ];
}

function credentialProblems(settings: RedisSettings, { kind, username, password }: RedisAddress): string[] {
  const { REDIS_PASSWORD_FILE: file, REDIS_SENTINEL_USERNAME: sentinelUser } = settings;
  const problems: string[] = [];
  if (file === undefined && username !== undefined && password === undefined) {
    problems.push(
      'REDIS_URL has a user but no password: write redis://user:password@host (redis://:password@host if there is only a password), or write the password to a file and name it in REDIS_PASSWORD_FILE',
    );
  }
  if (file !== undefined && password !== undefined) {
    problems.push(`REDIS_URL has a password, and REDIS_PASSWORD_FILE=${file} is set, too: remove one of them`);
  }
  const ofSentinels = (['REDIS_SENTINEL_USERNAME', 'REDIS_SENTINEL_PASSWORD_FILE'] as const).filter(
    (name) => settings[name] !== undefined,
  );
  if (kind !== 'sentinel' && ofSentinels.length > 0) {
    problems.push(
      `${ofSentinels.join(' and ')} is set, but REDIS_URL names no sentinels: write redis+sentinel://host:port,host:port/name, or unset it`,
    );
  } else if (sentinelUser !== undefined && settings.REDIS_SENTINEL_PASSWORD_FILE === undefined) {
    problems.push(
      'REDIS_SENTINEL_USERNAME is set without a password: write the password to a file and name it in REDIS_SENTINEL_PASSWORD_FILE',
    );
  }
  return problems;
}

const TLS_SETTINGS = [
  'REDIS_TLS_CA',
  'REDIS_TLS_CERT',
  'REDIS_TLS_KEY',
  'REDIS_TLS_KEY_PASSWORD_FILE',
  'REDIS_TLS_SERVER_NAME',
] as const;

function tlsProblems(settings: RedisSettings, { tls }: RedisAddress): string[] {
  const { REDIS_TLS_CERT: cert, REDIS_TLS_KEY: key, REDIS_TLS_KEY_PASSWORD_FILE: password } = settings;
  const [set] = TLS_SETTINGS.filter((name) => settings[name] !== undefined);
  if (!tls && set !== undefined) {
    const withTls = displayRedisUrl(settings.REDIS_URL).replace(/^redis/, 'rediss');
    return [`${set} is set, but REDIS_URL does not use TLS: write ${withTls}, or unset ${set}`];
  }
  if ((cert === undefined) !== (key === undefined)) {
    const [there, missing] = cert === undefined ? ['KEY', 'CERT'] : ['CERT', 'KEY'];
    return [`REDIS_TLS_${there} is set and REDIS_TLS_${missing} is not: set both, or none`];
  }
  return key === undefined && password !== undefined
    ? ['REDIS_TLS_KEY_PASSWORD_FILE is set without REDIS_TLS_KEY: set both, or none']
    : [];
}

/** All keys of a queue must be in one slot, because BullMQ's scripts use several of them at the same time. */
function prefixProblems({ UNPACK_REDIS_PREFIX: prefix = '' }: RedisSettings, { kind }: RedisAddress): string[] {
  if (kind !== 'cluster' || HASH_TAG.test(prefix)) return [];
  const right = taggedPrefix(prefix);
  return [
    `UNPACK_REDIS_PREFIX=${prefix} has no hash tag, and a cluster would put the keys of a queue into several slots: set UNPACK_REDIS_PREFIX=${right} for every worker, producer and board`,
  ];
}

/** A prefix with a hash tag: `{bull}` for `bull`. */
export function taggedPrefix(prefix: string): string {
  const name = prefix.replace(/[{}]/g, '');
  return `{${name === '' ? 'bull' : name}}`;
}
