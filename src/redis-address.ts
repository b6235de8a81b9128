/** The address in a Redis URL. `src/queue/connection.ts` connects to it. */
export interface RedisAddress {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
  readonly db: number;
  /** IP version of the host's address; 0: any. */
  readonly family: 0 | 4 | 6;
  readonly username: string | undefined;
  readonly password: string | undefined;
}

const FORM = 'redis://[user:password@]host:port[/db] (rediss:// for TLS)';
const ENCODE =
  'percent-encode every character in user and password except letters, digits, - . _ ~ (@ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25, a space is %20), or write the password unencoded to a file and name it in REDIS_PASSWORD_FILE';

/** The tools of Valkey write valkey://. */
const SCHEMES: Readonly<Record<string, { readonly tls: boolean }>> = {
  redis: { tls: false },
  rediss: { tls: true },
  valkey: { tls: false },
  valkeys: { tls: true },
};
const HOST = /^(\[[0-9a-f:.]+\]|[\w.-]+)$/i;
/** Characters that the URL parser would drop or encode. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: the expression matches control characters
const DROPPED = /[\u0000-\u0020\u007f]/;
/** A malformed URL that is safe to show, because no part of it can be a password. */
const HARMLESS = /^[a-z][a-z0-9+.-]*:\/\/(\[[0-9a-f:.]+\]|[\w.-]+)(:\d+)?(\/\d*)?$/i;

/**
 * Parses a Redis URL. The parser of ioredis is not used, because it reads options from the query, ignores TLS in `REDISS://`,
 * and misreads a password that is not encoded.
 * @returns the address, or an error sentence that contains no part of a password
 */
export function readRedisUrl(text: string): RedisAddress | string {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text)?.[1]?.toLowerCase();
  const protocol = scheme === undefined ? undefined : SCHEMES[scheme];
  if (scheme === undefined)
    return text.startsWith('/') ? `a Unix socket is not supported: write ${FORM}` : `write ${FORM}`;
  if (protocol === undefined) return `${scheme}:// is not a Redis URL: write ${FORM}`;
  const url = URL.parse(text.replace(/^[^:]+/, 'redis'));
  const readable = url !== null && !DROPPED.test(text) && url.hash === '' && !url.pathname.includes('@');
  if (!readable) return text.includes('@') ? `the URL is malformed: ${ENCODE}` : `the URL is malformed: write ${FORM}`;
  const username = decoded(url.username);
  const password = decoded(url.password);
  if (username === null || password === null) return `the URL is malformed: ${ENCODE}`;
  if (!HOST.test(url.hostname)) return `the URL must name one host: write ${FORM}`;
  if (url.port === '0') return `port 0 is not valid: write ${FORM}`;
  const family = familyOf(url);
  if (family === undefined) {
    return `of the parameters after a ?, only family=4 and family=6 are supported: write ${FORM}; ${ENCODE}`;
  }
  const db = /^\/?(\d{0,6})$/.exec(url.pathname)?.[1];
  if (db === undefined) return `only the number of a database is allowed after the host: write ${FORM}; ${ENCODE}`;
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? 6379 : Number(url.port),
    tls: protocol.tls,
    db: Number(db),
    family,
    username: username === '' ? undefined : username,
    password: password === '' ? undefined : password,
  };
}

/** `redis://host:port/db` for messages, without user, password and parameters. It accepts any text. */
export function displayRedisUrl(text: string): string {
  const address = readRedisUrl(text);
  if (typeof address === 'string') return HARMLESS.test(text) ? text : 'REDIS_URL';
  const { tls, host, port, db } = address;
  const name = host.includes(':') ? `[${host}]` : host;
  return `redis${tls ? 's' : ''}://${name}:${port}${db === 0 ? '' : `/${db}`}`;
}

/** A Redis URL with user and password masked, for the list of settings; `undefined` if it could reveal a secret. */
export function maskedRedisUrl(text: string): string | undefined {
  const address = readRedisUrl(text);
  if (typeof address === 'string') return HARMLESS.test(text) ? text : undefined;
  const { username, password } = address;
  // a user without a password is possibly a password in the wrong place
  const secret = username !== undefined || password !== undefined;
  return displayRedisUrl(text).replace('://', secret ? '://***@' : '://');
}

/** `null` if a percent sign is not part of an encoded character. */
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
