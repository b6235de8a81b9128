import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';

/** Why Redis does not do what it is asked, for a person. */
export interface RedisTrouble {
  /** What follows "Redis at redis://host:port", with the remedy. */
  readonly sentence: string;
  /**
   * `away`: it cannot be reached. `refuses`: it is there, and does nothing for us as long as it is in this state, which
   * ends without a change of our settings. `settings`: it never will, until somebody changes something.
   */
  readonly kind: 'away' | 'refuses' | 'settings';
}

const CREDENTIALS =
  'in REDIS_URL (redis://user:password@host:port, percent-encoded) or in the file that REDIS_PASSWORD_FILE names';
const NO_CLUSTER =
  'use a server without it (cluster-enabled no); on a cluster of one node, UNPACK_REDIS_PREFIX={bull} keeps the queue in one slot';

/** By the first word of what Redis answers (redis.io, "Redis serialization protocol", simple errors). */
const ANSWERS: Readonly<Record<string, RedisTrouble>> = {
  NOAUTH: settings(`wants a password: put it ${CREDENTIALS}`),
  WRONGPASS: settings(
    `refuses this user and password: correct them ${CREDENTIALS}; where no user is named, it is default`,
  ),
  NOPERM: settings(
    'does not let this user do what the queue needs: give it the keys and channels of the queue, and the commands, as ACL SETUSER NAME ~bull:* &bull:* +@all -@dangerous +info does (bull is UNPACK_REDIS_PREFIX)',
  ),
  DENIED: settings(
    'is in protected mode and serves its own machine only: set a password there (requirepass), then put it into REDIS_URL or REDIS_PASSWORD_FILE',
  ),
  CROSSSLOT: settings(`is a cluster, over which a queue cannot be spread: ${NO_CLUSTER}`),
  MOVED: settings(`is one node of a cluster, and the queue belongs on another: ${NO_CLUSTER}`),
  ASK: settings(`is one node of a cluster, and the queue belongs on another: ${NO_CLUSTER}`),
  WRONGTYPE: settings(
    'has something else under the keys of this queue: choose another UNPACK_QUEUE or UNPACK_REDIS_PREFIX',
  ),
  CLUSTERDOWN: refuses(`is a cluster that serves nothing (CLUSTERDOWN): give it all its slots, or ${NO_CLUSTER}`),
  LOADING: refuses('is still loading its data from disk: wait until it has'),
  READONLY: refuses(
    'takes no writes, because it is a replica: name the primary in REDIS_URL, or wait where one is being chosen',
  ),
  UNBLOCKED: refuses('has become a replica: wait until the primary is there, or name it in REDIS_URL'),
  MASTERDOWN: refuses(
    'is a replica that has lost its primary: name the primary in REDIS_URL, or wait where one is being chosen',
  ),
  OOM: refuses(
    'has used up its memory (maxmemory): give it more, or let it keep fewer jobs (UNPACK_KEEP_COMPLETED, UNPACK_KEEP_FAILED)',
  ),
  MISCONF: refuses(
    'takes no writes, because it cannot save its data to disk: free space there, and see its log (stop-writes-on-bgsave-error)',
  ),
  NOREPLICAS: refuses('takes no writes, because too few replicas follow it (min-replicas-to-write): bring them back'),
  BUSY: refuses('is busy with a script: SCRIPT KILL ends one that has written nothing'),
};

/** By what follows ERR, the word of everything that has none of its own. */
const ERR: readonly (readonly [pattern: RegExp, trouble: RedisTrouble])[] = [
  [
    /unknown command/i,
    settings(
      'does not know a command that the queue needs (EVAL, EVALSHA, XADD…): a proxy or rename-command hides it, or it is older than Redis 5',
    ),
  ],
  [/max number of clients/i, refuses('has as many clients as it allows (maxclients): raise that, or end some of them')],
  [
    /DB index/i,
    settings('has no database with the number that REDIS_URL ends in: leave that out, or raise databases there'),
  ],
  [/SELECT is not allowed in cluster mode/i, settings(`is a cluster, which has no numbered databases: ${NO_CLUSTER}`)],
  [
    /invalid password|without any password configured|wrong number of arguments for 'auth'/i,
    settings(`refuses this user and password: correct them ${CREDENTIALS}`),
  ],
];

const TLS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'has a certificate that has expired: renew it there',
  CERT_NOT_YET_VALID: 'has a certificate that is not valid yet: look at the clocks of both machines',
  ERR_TLS_CERT_ALTNAME_INVALID: 'has a certificate for another name: use in REDIS_URL a host name that is in it',
  EPROTO: 'speaks no TLS that this machine understands: write redis:// where it has none',
};
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
/** ioredis and BullMQ have no codes for these. */
const AWAY =
  /^(Connection is closed|Command timed out|Stream isn't writeable|Command aborted due to connection close|connect |read E|write E)/;

/** What an error says about Redis; `undefined` for one that is about something else. */
export function redisTrouble(error: unknown): RedisTrouble | undefined {
  if (!(error instanceof Error)) return undefined;
  const { message } = error;
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  if (code in TLS) return settings(TLS[code] ?? '');
  if (UNTRUSTED.test(code)) {
    return settings(
      `has a certificate that this machine does not trust (${code}): name the file with its CA in NODE_EXTRA_CA_CERTS`,
    );
  }
  if (/CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE/.test(code)) {
    return settings('wants a certificate of its clients, and unpackd has none: set tls-auth-clients no there');
  }
  if (code.startsWith('ERR_SSL_')) return settings(TLS.EPROTO ?? '');
  if (error instanceof AggregateError && error.errors.length > 0) {
    // one error for each address of the host
    const [first] = error.errors.map(redisTrouble).filter((trouble) => trouble !== undefined);
    return first;
  }
  if (AWAY_CODES.has(code) || AWAY.test(message) || error.name === 'MaxRetriesPerRequestError') {
    return { kind: 'away', sentence: `is not available: ${message || code}` };
  }
  if (error.name === 'ParserError' || /^Protocol error/.test(message)) {
    return settings('does not answer as Redis does: is it another service, or does it want TLS (rediss://)?');
  }
  if (/^Redis version needs to be/.test(message))
    return settings('is too old: BullMQ needs Redis 5 or newer, or Valkey');
  return error.name === 'ReplyError' ? answered(error) : undefined;
}

/** Milliseconds that a connection may take to say why it is not ready. */
const SAYS_WHY = 1000;

/** Why a connection that has been made is not ready yet: ioredis waits in silence while Redis loads its data. */
export async function whyNotReady(redis: Redis): Promise<RedisTrouble> {
  const silent: RedisTrouble = { kind: 'away', sentence: 'is not available: it does not answer' };
  const late = new AbortController();
  const told = redis.info('persistence').then(
    (text) => (/^loading:1/m.test(text) ? ANSWERS.LOADING : undefined),
    (error: unknown) => redisTrouble(error),
  );
  const trouble = await Promise.race([
    told,
    sleep(SAYS_WHY, undefined, { signal: late.signal }).catch(() => undefined),
  ]);
  late.abort();
  return trouble ?? silent;
}

function answered(error: Error): RedisTrouble {
  const { message } = error;
  // a transaction says only that one of its commands failed
  const earlier =
    'previousErrors' in error && Array.isArray(error.previousErrors) ? error.previousErrors[0] : undefined;
  return message.startsWith('EXECABORT') && earlier instanceof Error ? answered(earlier) : answeredTrouble(message);
}

/** What an error that Redis answers with says, without the minus sign. */
export function answeredTrouble(message: string): RedisTrouble {
  // Redis 6 and older put what a command of a script was told at the end of a sentence about the script
  const words = message.matchAll(/(?:^|: -?)([A-Z]{3,})(?= )/g);
  const [known] = [...words].flatMap(([, name = '']) => ANSWERS[name] ?? []);
  if (known !== undefined) return known;
  const err = ERR.find(([pattern]) => pattern.test(message));
  return err?.[1] ?? refuses(`refuses a command: ${message}`);
}

function settings(sentence: string): RedisTrouble {
  return { kind: 'settings', sentence };
}

function refuses(sentence: string): RedisTrouble {
  return { kind: 'refuses', sentence };
}
