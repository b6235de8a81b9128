/** Where a Redis is, as its URL says it. */
export interface RedisAddress {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
  readonly db: number;
  /** Address family that the host's name is looked up for; 0: either. */
  readonly family: 0 | 4 | 6;
  readonly username: string | undefined;
  readonly password: string | undefined;
}

const FORM = 'redis://[user:password@]host:port[/db] (rediss:// for TLS)';
const ENCODE =
  'in user and password, every character but letters, digits, - . _ ~ is written percent-encoded (@ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25, a space is %20); or put the password, as it is, into a file and name that in REDIS_PASSWORD_FILE';

/** Valkey's own tools write the name of Valkey. */
const SCHEMES: Readonly<Record<string, { readonly tls: boolean }>> = {
  redis: { tls: false },
  rediss: { tls: true },
  valkey: { tls: false },
  valkeys: { tls: true },
};
const HOST = /^(\[[0-9a-f:.]+\]|[\w.-]+)$/i;
/** What the parser of URLs drops or encodes, wherever a shell or a file has left it. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is refused
const DROPPED = /[\u0000-\u0020\u007f]/;
/** What can be shown of a wrong URL: it has no place where a password could be. */
const HARMLESS = /^[a-z][a-z0-9+.-]*:\/\/(\[[0-9a-f:.]+\]|[\w.-]+)(:\d+)?(\/\d*)?$/i;

/**
 * Reads the URL of a Redis. ioredis reads one too, but takes options out of its query, leaves TLS out for `REDISS://` and
 * gives pieces of a password that is not encoded a meaning.
 * @returns the address, or what is wrong as a sentence that shows nothing of a password
 */
export function readRedisUrl(text: string): RedisAddress | string {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text)?.[1]?.toLowerCase();
  const known = scheme === undefined ? undefined : SCHEMES[scheme];
  if (scheme === undefined) return text.startsWith('/') ? `a socket cannot be used: write ${FORM}` : `write ${FORM}`;
  if (known === undefined) return `${scheme}:// is not the address of a Redis: write ${FORM}`;
  const url = URL.parse(text.replace(/^[^:]+/, 'redis'));
  const readable = url !== null && !DROPPED.test(text) && url.hash === '' && !url.pathname.includes('@');
  if (!readable) return text.includes('@') ? `it cannot be read: ${ENCODE}` : `it cannot be read: write ${FORM}`;
  const username = decoded(url.username);
  const password = decoded(url.password);
  if (username === null || password === null) return `it cannot be read: ${ENCODE}`;
  if (!HOST.test(url.hostname)) return `it names no host, or more than one: write ${FORM}`;
  if (url.port === '0') return `port 0 is none: write ${FORM}`;
  const family = familyOf(url);
  if (family === undefined) {
    return `it has parameters after a ?, and only family=4 or family=6 is known: write ${FORM}; ${ENCODE}`;
  }
  const db = /^\/?(\d{0,6})$/.exec(url.pathname)?.[1];
  if (db === undefined) return `what follows the host must be the number of a database: write ${FORM}; ${ENCODE}`;
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? 6379 : Number(url.port),
    tls: known.tls,
    db: Number(db),
    family,
    username: username === '' ? undefined : username,
    password: password === '' ? undefined : password,
  };
}

/** `redis://host:port/db` without user, password and parameters, for messages; whatever `text` is. */
export function displayRedisUrl(text: string): string {
  const address = readRedisUrl(text);
  if (typeof address === 'string') return HARMLESS.test(text) ? text : 'REDIS_URL';
  const { tls, host, port, db } = address;
  const name = host.includes(':') ? `[${host}]` : host;
  return `redis${tls ? 's' : ''}://${name}:${port}${db === 0 ? '' : `/${db}`}`;
}

/** A Redis URL as a listing of settings shows it; `undefined` for one that could show a secret. */
export function maskedRedisUrl(text: string): string | undefined {
  const address = readRedisUrl(text);
  if (typeof address === 'string') return HARMLESS.test(text) ? text : undefined;
  const { username, password } = address;
  // a user without a password is as likely a password in the wrong place
  const secret = username !== undefined || password !== undefined;
  return displayRedisUrl(text).replace('://', secret ? '://***@' : '://');
}

/** `null` where a percent sign stands for itself. */
function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

function familyOf({ search, searchParams }: URL): RedisAddress['family'] | undefined {
  if (search === '') return 0;
  const [[name, value] = [], ...others] = [...searchParams];
  if (name !== 'family' || others.length > 0) return undefined;
  return ({ 0: 0, 4: 4, 6: 6 } as const)[value ?? ''];
}
