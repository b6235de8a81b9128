/** The address in a Redis URL. `src/queue/connection.ts` connects to it. */
export interface RedisAddress {
  /** `single`: a server. `sentinel`: the primary that sentinels name. `cluster`: the node that has the keys of the queue. */
  readonly kind: 'single' | 'sentinel' | 'cluster';
  /** The server, the sentinels, or nodes of the cluster. There is at least one. */
  readonly servers: readonly RedisServer[];
  /** The name of the primary at its sentinels; only for `sentinel`. */
  readonly primaryName: string | undefined;
  readonly tls: boolean;
  readonly db: number;
  /** IP version of the hosts' addresses; 0: any. */
  readonly family: 0 | 4 | 6;
  readonly username: string | undefined;
  readonly password: string | undefined;
}

export interface RedisServer {
  readonly host: string;
  readonly port: number;
}

type Kind = RedisAddress['kind'];

const FORMS: Readonly<Record<Kind, string>> = {
  single: 'redis://[user:password@]host:port[/db] (rediss:// for TLS)',
  sentinel: 'redis+sentinel://[user:password@]host:port,host:port/name[/db] (rediss+sentinel:// for TLS)',
  cluster: 'redis+cluster://[user:password@]host:port,host:port (rediss+cluster:// for TLS)',
};
const ENCODE =
  'percent-encode every character in user and password except letters, digits, - . _ ~ (@ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25, a space is %20), or write the password unencoded to a file and name it in REDIS_PASSWORD_FILE';

/** The tools of Valkey write valkey://. */
const SCHEME = /^(redis|valkey)(s?)(?:\+(sentinel|cluster))?$/;
const DEFAULT_PORT: Readonly<Record<Kind, number>> = { single: 6379, sentinel: 26379, cluster: 6379 };
/** User and password, hosts, and the rest. An `@` in the rest is found later. */
const PARTS = /^[^:]+:\/\/([^/?#]*@)?([^/?#]*)(.*)$/;
const HOST = /^(\[[0-9a-f:.]+\]|[\w.-]+)$/i;
/** Characters that the URL parser would drop or encode. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: the expression matches control characters
const DROPPED = /[\u0000-\u0020\u007f]/;
const HOST_AND_PORT = String.raw`(\[[0-9a-f:.]+\]|[\w.-]+)(:\d+)?`;
/** A malformed URL that is safe to show, because no part of it can be a password. */
const HARMLESS = new RegExp(String.raw`^[a-z][a-z0-9+.-]*://${HOST_AND_PORT}(,${HOST_AND_PORT})*(/\d*)?$`, 'i');

/**
 * Parses a Redis URL. The parser of ioredis is not used, because it reads options from the query, ignores TLS in `REDISS://`,
 * and misreads a password that is not encoded.
 * @returns the address, or an error sentence that contains no part of a password
 */
export function readRedisUrl(text: string): RedisAddress | string {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text)?.[1]?.toLowerCase();
  if (scheme === undefined) {
    return text.startsWith('/') ? `a Unix socket is not supported: write ${FORMS.single}` : `write ${FORMS.single}`;
  }
  const known = SCHEME.exec(scheme);
  if (known === null) return `${scheme}:// is not a Redis URL: write ${FORMS.single}`;
  const kind = (known[3] as Kind | undefined) ?? 'single'; // the expression has no other words
  const form = FORMS[kind];
  const [, credentials = '', hosts = '', rest = ''] = PARTS.exec(text) ?? [];
  const urls = (kind === 'single' ? [hosts] : hosts.split(',')).map((host) =>
    URL.parse(`redis://${credentials}${host}${rest}`),
  );
  const parsed = urls.filter((url) => url !== null);
  const [first] = parsed;
  const readable = first !== undefined && !DROPPED.test(text) && first.hash === '' && !first.pathname.includes('@');
  if (!readable || parsed.length < urls.length) {
    return text.includes('@') ? `the URL is malformed: ${ENCODE}` : `the URL is malformed: write ${form}`;
  }
  const username = decoded(first.username);
  const password = decoded(first.password);
  if (username === null || password === null) return `the URL is malformed: ${ENCODE}`;
  if (!parsed.every(({ hostname }) => HOST.test(hostname))) {
    return `the URL must name ${kind === 'single' ? 'one host' : 'hosts, separated by commas'}: write ${form}`;
  }
  if (parsed.some(({ port }) => port === '0')) return `port 0 is not valid: write ${form}`;
  const family = familyOf(first);
  if (family === undefined) {
    return `of the parameters after a ?, only family=4 and family=6 are supported: write ${form}; ${ENCODE}`;
  }
  const path = pathOf(kind, first.pathname);
  if (typeof path === 'string') return `${path}: write ${form}; ${ENCODE}`;
  return {
    kind,
    servers: parsed.map(({ hostname, port }) => ({
      host: hostname.replace(/^\[|\]$/g, ''),
      port: port === '' ? DEFAULT_PORT[kind] : Number(port),
    })),
    primaryName: path.name,
    tls: known[2] === 's',
    db: path.db,
    family,
    username: username === '' ? undefined : username,
    password: password === '' ? undefined : password,
  };
}

/** `redis://host:port/db` for messages, without user, password and parameters. It accepts any text. */
export function displayRedisUrl(text: string): string {
  const address = readRedisUrl(text);
  if (typeof address === 'string') return HARMLESS.test(text) ? text : 'REDIS_URL';
  const { kind, tls, servers, primaryName, db } = address;
  const scheme = `redis${tls ? 's' : ''}${kind === 'single' ? '' : `+${kind}`}`;
  const name = primaryName === undefined ? '' : `/${primaryName}`;
  return `${scheme}://${servers.map(displayServer).join(',')}${name}${db === 0 ? '' : `/${db}`}`;
}

/** `host:port` for messages. */
export function displayServer({ host, port }: RedisServer): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
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

/** What follows the hosts; or why it is wrong. */
function pathOf(kind: Kind, path: string): { readonly name: string | undefined; readonly db: number } | string {
  if (kind === 'sentinel') {
    const [, name, db = ''] = /^\/([\w.-]+)(?:\/(\d{0,6}))?$/.exec(path) ?? [];
    if (name === undefined) return 'the name of the primary at its sentinels must follow the hosts';
    return { name, db: Number(db) };
  }
  const db = /^\/?(\d{0,6})$/.exec(path)?.[1];
  if (db === undefined) return 'only the number of a database is allowed after the host';
  if (kind === 'cluster' && Number(db) !== 0) return 'a cluster has no numbered databases';
  return { name: undefined, db: Number(db) };
}

function familyOf({ search, searchParams }: URL): RedisAddress['family'] | undefined {
  if (search === '') return 0;
  const [[name, value] = [], ...others] = [...searchParams];
  if (name !== 'family' || others.length > 0) return undefined;
  return ({ 0: 0, 4: 4, 6: 6 } as const)[value ?? ''];
}
