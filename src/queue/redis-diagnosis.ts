import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { errnoOf } from '../errno.ts';
import { ConfigError } from '../errors.ts';
import { readRedisUrl } from '../redis-address.ts';
import type { RedisSettings } from '../redis-settings.ts';

/**
 * The cause of an error of Redis and what to do, for a person. Producer, worker, board and doctor convert their errors with
 * `diagnoseRedisError`.
 */
export interface RedisDiagnosis {
  /** What is wrong, and what to do. It continues a sentence that begins with "Redis at redis://host:port". */
  readonly sentence: string;
  /**
   * `unreachable`: there is no connection. `refusing`: Redis refuses commands in its current state, which can change without a
   * change of settings. `misconfigured`: somebody must change a setting of this program or of Redis.
   */
  readonly kind: 'unreachable' | 'refusing' | 'misconfigured';
}

/** An error of a connection whose cause is known where it is thrown. */
export class DiagnosedError extends Error {
  override readonly name = 'DiagnosedError';
  readonly diagnosis: RedisDiagnosis;

  constructor(diagnosis: RedisDiagnosis) {
    super(diagnosis.sentence);
    this.diagnosis = diagnosis;
  }
}

/** What an error came from: a server that REDIS_URL names, a sentinel, or a node of a cluster. */
export type ErrorSource = 'server' | 'sentinel' | 'node';

/** What the errors of the server with the queue come from. */
export function errorSource({ REDIS_URL }: Pick<RedisSettings, 'REDIS_URL'>): ErrorSource {
  const address = readRedisUrl(REDIS_URL);
  return typeof address === 'object' && address.kind === 'cluster' ? 'node' : 'server';
}

const CREDENTIALS =
  'in REDIS_URL (redis://user:password@host:port, percent-encoded) or in the file that REDIS_PASSWORD_FILE names';
const SENTINEL_CREDENTIALS = 'in the file that REDIS_SENTINEL_PASSWORD_FILE names';
const USE_CLUSTER =
  'write redis+cluster://host:port in REDIS_URL, and set UNPACK_REDIS_PREFIX={bull}, which keeps the queue in one slot';

export const CLUSTER_DOWN = refusing(
  'is a cluster that is down (CLUSTERDOWN): start its nodes, and assign all slots (redis-cli --cluster check)',
);
const RESHARDING = refusing('moves the queue to another node of the cluster: wait until its slot has been moved');

/** Errors of Redis by their first word (redis.io, "Redis serialization protocol", simple errors). */
const ANSWERS: Readonly<Record<string, RedisDiagnosis>> = {
  NOAUTH: misconfigured(`needs a password: write it ${CREDENTIALS}`),
  WRONGPASS: misconfigured(
    `refuses this user and password: correct them ${CREDENTIALS}; without a user name, the user is default`,
  ),
  NOPERM: misconfigured(
    'does not permit this user the commands, keys or channels of the queue: permit them with ACL SETUSER NAME ~bull:* &bull:* +@all -@dangerous +info (bull is UNPACK_REDIS_PREFIX)',
  ),
  DENIED: misconfigured(
    'is in protected mode and serves only its own machine: set a password there (requirepass), and write it into REDIS_URL or REDIS_PASSWORD_FILE',
  ),
  CROSSSLOT: misconfigured(`is a cluster, and a queue cannot use several slots: ${USE_CLUSTER}`),
  MOVED: misconfigured(`is one node of a cluster, and the queue belongs to another node: ${USE_CLUSTER}`),
  ASK: misconfigured(`is one node of a cluster, and the queue belongs to another node: ${USE_CLUSTER}`),
  TRYAGAIN: RESHARDING,
  WRONGTYPE: misconfigured(
    'has other data under the keys of this queue: choose another UNPACK_QUEUE or UNPACK_REDIS_PREFIX',
  ),
  CLUSTERDOWN: CLUSTER_DOWN,
  LOADING: refusing('is still loading its data from disk: wait until it has finished'),
  READONLY: refusing(
    'accepts no writes, because it is a replica: set REDIS_URL to the primary, or wait until a failover is complete',
  ),
  UNBLOCKED: refusing('has become a replica: wait until the failover is complete, or set REDIS_URL to the primary'),
  MASTERDOWN: refusing(
    'is a replica that has lost its primary: set REDIS_URL to the primary, or wait until a failover is complete',
  ),
  OOM: refusing(
    'has no free memory (maxmemory): give it more, or keep fewer jobs (UNPACK_KEEP_COMPLETED, UNPACK_KEEP_FAILED)',
  ),
  MISCONF: refusing(
    'accepts no writes, because it cannot save its data to disk (stop-writes-on-bgsave-error): free space there, and see its log',
  ),
  NOREPLICAS: refusing(
    'accepts no writes, because it has too few replicas (min-replicas-to-write): start the missing replicas',
  ),
  BUSY: refusing(
    'is busy with a script: wait, or end it with SCRIPT KILL, which works if the script has written nothing',
  ),
};

/** The same for what differs at a sentinel and at a node of a cluster. */
const ANSWERS_OF: Readonly<Record<ErrorSource, Readonly<Record<string, RedisDiagnosis>>>> = {
  server: {},
  sentinel: {
    NOAUTH: misconfigured(`needs a password: write it ${SENTINEL_CREDENTIALS}`),
    WRONGPASS: misconfigured(
      `refuses this user and password: correct REDIS_SENTINEL_USERNAME, and the password ${SENTINEL_CREDENTIALS}`,
    ),
    NOPERM: misconfigured(
      'does not permit this user to ask for the primary: permit it with ACL SETUSER NAME +sentinel|get-master-addr-by-name',
    ),
    DENIED: misconfigured(
      `is in protected mode and serves only its own machine: set a password there (requirepass), and write it ${SENTINEL_CREDENTIALS}; or set protected-mode no`,
    ),
  },
  node: { MOVED: RESHARDING, ASK: RESHARDING },
};

/** Errors that begin with ERR, by the text that follows. */
const ERR: readonly (readonly [pattern: RegExp, diagnosis: RedisDiagnosis])[] = [
  [
    /unknown command '?sentinel/i,
    misconfigured(
      'is not a sentinel: correct host and port (26379 is usual), or write redis://host:port to use one server',
    ),
  ],
  [
    /cluster support disabled/i,
    misconfigured('is not in a cluster: write redis://host:port, or redis+sentinel://host:port/name, in REDIS_URL'),
  ],
  [/non local key in a cluster/i, RESHARDING],
  [
    /unknown command/i,
    misconfigured(
      'does not know a command that the queue needs (EVAL, EVALSHA, XADD…): remove the proxy or rename-command that hides it, or upgrade to Redis 5 or newer',
    ),
  ],
  [
    /max number of clients/i,
    refusing('has the maximum number of clients (maxclients): raise the limit, or end some clients'),
  ],
  [
    /DB index/i,
    misconfigured(
      'has no database with the number at the end of REDIS_URL: remove the number, or raise the setting databases of Redis',
    ),
  ],
  [
    /SELECT is not allowed in cluster mode/i,
    misconfigured(`is a cluster, which has no numbered databases: ${USE_CLUSTER}`),
  ],
  [
    /invalid password|without any password configured|wrong number of arguments for 'auth'/i,
    misconfigured(`refuses this user and password: correct them ${CREDENTIALS}`),
  ],
];

const TLS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'has a certificate that has expired: renew it',
  CERT_NOT_YET_VALID: 'has a certificate that is not valid yet: check the clocks of both machines',
  ERR_TLS_CERT_ALTNAME_INVALID:
    'has a certificate for another name: use a host name of the certificate in REDIS_URL, or set REDIS_TLS_SERVER_NAME to one',
  EPROTO: 'does not use TLS in a supported version: if it does not use TLS, write redis://',
};
export const CLIENT_CERTIFICATE = misconfigured(
  'requires a client certificate: set REDIS_TLS_CERT and REDIS_TLS_KEY, or tls-auth-clients no in Redis',
);
const UNTRUSTED = /^(DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_(VERIFY|GET)_\w+)$/;

const AWAY_CODES = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'EHOSTDOWN',
  'ENETUNREACH',
  'ENETDOWN',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EADDRNOTAVAIL',
  'EACCES',
  'EPERM',
]);
/** Errors of ioredis and BullMQ without a code. */
const AWAY =
  /^(Connection is closed|Command timed out|Stream isn't writeable|Command aborted due to connection close|Socket timeout|connect |read E|write E)/;

/** The diagnosis of an error; `undefined` if the error is not about Redis. */
export function diagnoseRedisError(error: unknown, source: ErrorSource = 'server'): RedisDiagnosis | undefined {
  if (!(error instanceof Error)) return undefined;
  if (error instanceof DiagnosedError) return error.diagnosis;
  // a file that was right at the start, and is read again for each connection
  if (error instanceof ConfigError) return refusing(`cannot be reached with these settings: ${error.message}`);
  const { message } = error;
  const code = errnoOf(error) ?? '';
  if (code in TLS) return misconfigured(TLS[code] ?? '');
  if (UNTRUSTED.test(code)) {
    return misconfigured(
      `has a certificate that this machine does not trust (${code}): set REDIS_TLS_CA to the file with the certificate of its CA`,
    );
  }
  if (/CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE/.test(code)) return CLIENT_CERTIFICATE;
  const alert =
    /^ERR_SSL_\w*ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_(?:EXPIRED|REVOKED|UNKNOWN)|UNSUPPORTED_CERTIFICATE)$/.exec(
      code,
    );
  if (alert !== null) {
    return refusedCertificate(alert[1]?.toLowerCase().replaceAll('_', ' ') ?? '');
  }
  if (code.startsWith('ERR_SSL_')) return misconfigured(TLS.EPROTO ?? '');
  if (error instanceof AggregateError && error.errors.length > 0) {
    // the host has several addresses, with one error for each
    const [first] = error.errors
      .map((one) => diagnoseRedisError(one, source))
      .filter((diagnosis) => diagnosis !== undefined);
    return first;
  }
  if (AWAY_CODES.has(code) || AWAY.test(message) || error.name === 'MaxRetriesPerRequestError') {
    return { kind: 'unreachable', sentence: `is not available: ${message || code}` };
  }
  if (error.name === 'ParserError' || /^Protocol error/.test(message)) {
    return misconfigured('does not answer like Redis: correct host and port, or write rediss:// if it uses TLS');
  }
  if (/^Redis version needs to be/.test(message))
    return misconfigured('is too old: upgrade it to Redis 5 or newer, or to Valkey');
  return error.name === 'ReplyError' ? replyDiagnosis(error, source) : undefined;
}

/** Time limit in milliseconds for Redis to answer why it is not ready. */
const ANSWER_LIMIT = 1000;

/** Asks Redis why an open connection is not ready. While Redis loads its data, ioredis waits and reports nothing. */
export async function whyNotReady(redis: Redis): Promise<RedisDiagnosis> {
  const silent: RedisDiagnosis = { kind: 'unreachable', sentence: 'is not available: it does not answer' };
  const late = new AbortController();
  const answer = redis.info('persistence').then(
    (text) => (/^loading:1/m.test(text) ? ANSWERS.LOADING : undefined),
    (error: unknown) => diagnoseRedisError(error),
  );
  const diagnosis = await Promise.race([
    answer,
    sleep(ANSWER_LIMIT, undefined, { signal: late.signal }).catch(() => undefined),
  ]);
  late.abort();
  return diagnosis ?? silent;
}

function replyDiagnosis(error: Error, source: ErrorSource): RedisDiagnosis {
  const { message } = error;
  // the error of a transaction has no cause, only that one of its commands failed
  const earlier =
    'previousErrors' in error && Array.isArray(error.previousErrors) ? error.previousErrors[0] : undefined;
  return message.startsWith('EXECABORT') && earlier instanceof Error
    ? replyDiagnosis(earlier, source)
    : diagnoseAnswer(message, source);
}

/** The diagnosis of an error reply, without its minus sign. */
export function diagnoseAnswer(message: string, source: ErrorSource = 'server'): RedisDiagnosis {
  // Redis 6 and older write the error of a command in a script at the end of a sentence about the script
  const words = message.matchAll(/(?:^|: -?)([A-Z]{3,})(?= )/g);
  const [known] = [...words].flatMap(([, name = '']) => ANSWERS_OF[source][name] ?? ANSWERS[name] ?? []);
  if (known !== undefined) return known;
  const err = ERR.find(([pattern]) => pattern.test(message));
  return err?.[1] ?? refusing(`refuses a command: ${message}`);
}

export function refusedCertificate(why: string): RedisDiagnosis {
  return misconfigured(
    `refuses the client certificate (${why}): correct REDIS_TLS_CERT and REDIS_TLS_KEY, or renew them`,
  );
}

const ELSEWHERE =
  /^(?:(?:READONLY|MOVED|ASK|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|NOREPLICAS|UNBLOCKED|LOADING) |ERR WAIT cannot be used with replica)/;

/** Whether a command had no effect, because its server is not the primary now. After a failover it can be sent again. */
export function isRefusedInFailover(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (ELSEWHERE.test(error.message)) return true;
  // a transaction has no effect if one of its commands was refused
  const earlier: unknown = 'previousErrors' in error ? error.previousErrors : undefined;
  return error.message.startsWith('EXECABORT') && Array.isArray(earlier) && earlier.some(isRefusedInFailover);
}

function misconfigured(sentence: string): RedisDiagnosis {
  return { kind: 'misconfigured', sentence };
}

function refusing(sentence: string): RedisDiagnosis {
  return { kind: 'refusing', sentence };
}
