import { BlockList, isIP } from 'node:net';
import { addSecret } from '../secrets.ts';

/**
 * Which connections go through an HTTP proxy: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY. `src/s3-settings.ts` reads the
 * environment; HttpClient and the agents of the AWS SDK ask for the proxy of a server.
 */

/** A server to connect to. */
export interface Server {
  /** Whether the connection uses TLS. */
  readonly secure: boolean;
  /** A name, or an IP address without brackets. */
  readonly host: string;
  readonly port: number;
}

/** A proxy. It is plain data, so it can be sent to another thread. */
export interface HttpProxy extends Server {
  /** The environment variable that names it, for messages. */
  readonly variable: string;
  /** The value of `Proxy-Authorization`: a secret. */
  readonly authorization?: string | undefined;
}

/** The proxies of an environment. */
export interface Proxies {
  readonly https?: HttpProxy | undefined;
  readonly http?: HttpProxy | undefined;
  /** The parts of NO_PROXY. */
  readonly except: readonly string[];
}

type Environment = Readonly<Record<string, string | undefined>>;

/** What is wrong with a proxy setting. The message has no secret. */
export class ProxySettingError extends Error {
  override readonly name = 'ProxySettingError';
}

/** The variables for a scheme. As with curl, the lower-case name counts more. */
const VARIABLES = {
  https: ['https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'],
  http: ['http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'],
} as const;

/**
 * Reads the proxies of an environment. An empty variable counts as unset.
 * @returns `undefined` without a proxy
 * @throws ProxySettingError for a URL that is not one of an HTTP proxy
 */
export function proxiesOf(env: Environment): Proxies | undefined {
  const https = proxyOf(env, VARIABLES.https);
  const http = proxyOf(env, VARIABLES.http);
  if (https === undefined && http === undefined) return undefined;
  const except = settingOf(env, ['no_proxy', 'NO_PROXY'])?.value ?? '';
  return { https, http, except: except.split(/[\s,]+/).filter((part) => part !== '') };
}

/** The server of an `http:` or `https:` URL. */
export function serverOf(url: URL): Server {
  const secure = url.protocol === 'https:';
  const port = url.port === '' ? (secure ? 443 : 80) : Number(url.port);
  return { secure, host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port };
}

/** The proxy for a server; `undefined` for a direct connection. */
export function proxyFor(proxies: Proxies | undefined, { secure, host, port }: Server): HttpProxy | undefined {
  const proxy = secure ? proxies?.https : proxies?.http;
  if (proxy === undefined || proxies?.except.some((part) => isMatch(part, host, port))) return undefined;
  return proxy;
}

/** A proxy for messages, without its password. */
export function proxyName({ host, port, variable }: Pick<HttpProxy, 'host' | 'port' | 'variable'>): string {
  return `the proxy ${authority(host, port)} (${variable})`;
}

/** `host:port`, with brackets around an IPv6 address. */
export function authority(host: string, port: number): string {
  return `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
}

function settingOf(env: Environment, names: readonly string[]): { variable: string; value: string } | undefined {
  for (const variable of names) {
    const value = env[variable]?.trim();
    if (value !== undefined && value !== '') return { variable, value };
  }
  return undefined;
}

function proxyOf(env: Environment, names: readonly string[]): HttpProxy | undefined {
  const found = settingOf(env, names);
  if (found === undefined) return undefined;
  const { variable, value } = found;
  // a value without a scheme is an HTTP proxy, as for curl
  const url = URL.parse(/^[a-z][a-z0-9+.-]*:\/\//i.test(value) ? value : `http://${value}`);
  if (url !== null && !['http:', 'https:'].includes(url.protocol)) {
    throw new ProxySettingError(
      `${variable} names a proxy of the kind ${url.protocol.slice(0, -1)}, which unpackd cannot use: write the URL of an HTTP proxy, http://host:port or https://host:port`,
    );
  }
  // a password with / or # that is not encoded ends the host too early
  if (url === null || url.hostname === '' || url.hash !== '' || url.search !== '' || url.pathname !== '/') {
    throw new ProxySettingError(
      `${variable} is not the URL of a proxy: write http://host:port or http://user:password@host:port, and percent-encode every character of the password except letters, digits and -._~`,
    );
  }
  return {
    variable,
    ...serverOf(url),
    ...(url.username === '' && url.password === '' ? {} : { authorization: basic(url) }),
  };
}

function basic({ username, password }: URL): string {
  const encoded = Buffer.from(`${decoded(username)}:${decoded(password)}`).toString('base64');
  addSecret(decoded(password));
  addSecret(encoded);
  return `Basic ${encoded}`;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a lone % is part of the password
  }
}

/**
 * Whether a part of NO_PROXY is for a server. By the rules of curl and Go: `*`; a name, which is also for the names below it; an IP
 * address; a network (10.0.0.0/8); each name and address possibly with `:port`. Names are not resolved.
 */
function isMatch(part: string, host: string, port: number): boolean {
  if (part === '*') return true;
  const network = /^\[?([0-9a-f.:]+)\]?\/(\d{1,3})$/i.exec(part);
  if (network !== null) return isInside(host, network[1] ?? '', Number(network[2]));
  // an IPv6 address has colons, so its port needs brackets around the address
  const [, bracketed, plain, onlyPort] =
    isIP(part) === 6 ? [part, part] : (/^(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?$/.exec(part) ?? []);
  const name = bracketed ?? plain;
  if (name === undefined || (onlyPort !== undefined && Number(onlyPort) !== port)) return false;
  const bits = isIP(name) === 6 ? 128 : 32;
  if (isIP(name) !== 0) return isInside(host, name, bits);
  const wanted = bare(name);
  return wanted !== '' && isIP(host) === 0 && `.${bare(host)}`.endsWith(`.${wanted}`);
}

function isInside(host: string, network: string, bits: number): boolean {
  const kind = isIP(network);
  if (kind === 0 || isIP(host) === 0 || bits > (kind === 6 ? 128 : 32)) return false;
  const list = new BlockList();
  list.addSubnet(network, bits, kind === 6 ? 'ipv6' : 'ipv4');
  return list.check(host, isIP(host) === 6 ? 'ipv6' : 'ipv4');
}

/** `*.Example.org.` and `.example.org` mean the same as `example.org`. */
const bare = (name: string): string =>
  name
    .toLowerCase()
    .replace(/^\*?\./, '')
    .replace(/\.$/, '');
