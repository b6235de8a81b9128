import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { isIPv4, isIPv6 } from 'node:net';
import { type Config, ConfigError } from '../config.ts';

export type AccessSettings = Pick<
  Config,
  'UNPACK_BOARD_HOST' | 'UNPACK_BOARD_PORT' | 'UNPACK_BOARD_USER' | 'UNPACK_BOARD_PASSWORD'
>;

/** Why a request is refused. */
export interface Refusal {
  readonly status: 401 | 403;
  readonly sentence: string;
}

/** Answers to anyone: they tell nothing but up or down, and probes have no password. */
export const OPEN_PATHS: ReadonlySet<string> = new Set(['/healthz', '/readyz']);

/**
 * Who may use the board. On loopback everyone on this machine, unless a user is set; anywhere else the user only.
 *
 * A web page that is open in somebody's browser can send requests to this machine too. It is told by its `Origin`, and,
 * where it has made its own host name point here (DNS rebinding), by a `Host` that is not loopback.
 *
 * @throws ConfigError when the address is not loopback and there is no password, or only one of user and password
 */
export function accessRule(
  settings: AccessSettings,
): (method: string, headers: IncomingHttpHeaders) => Refusal | undefined {
  const { UNPACK_BOARD_HOST: host, UNPACK_BOARD_USER: user, UNPACK_BOARD_PASSWORD: password } = settings;
  if ((user === undefined) !== (password === undefined)) {
    const missing = user === undefined ? 'UNPACK_BOARD_USER' : 'UNPACK_BOARD_PASSWORD';
    throw new ConfigError(`${missing} is not set: the board wants both a user and a password, or neither`);
  }
  if (user === undefined && !isLoopback(host)) {
    throw new ConfigError(
      `UNPACK_BOARD_HOST=${host} is reachable from other machines: set UNPACK_BOARD_USER and UNPACK_BOARD_PASSWORD, or use 127.0.0.1`,
    );
  }
  const expected = user === undefined ? undefined : digest(`${user}:${password}`);

  return (method, headers) => {
    if (expected !== undefined) {
      if (!timingSafeEqual(expected, digest(credentials(headers.authorization)))) {
        return { status: 401, sentence: 'The board wants a user and a password.' };
      }
    } else if (!isLoopback(hostName(headers.host))) {
      return { status: 403, sentence: 'The board answers to this machine only, as localhost or 127.0.0.1.' };
    }
    if (method !== 'GET' && method !== 'HEAD' && !sameOrigin(headers)) {
      return { status: 403, sentence: 'The board takes no orders from other web pages.' };
    }
    return undefined;
  };
}

/** Whether an address or name can be reached from this machine only. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[|\]$/g, '').toLowerCase();
  if (isIPv4(name)) return name.startsWith('127.');
  if (isIPv6(name)) return name === '::1' || name.startsWith('::ffff:127.');
  return name === 'localhost';
}

/** Equal in length whatever was sent, so that comparing takes equal time. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

/** `user:password` of a Basic header (RFC 7617); empty for anything else. */
function credentials(header: string | undefined): string {
  const [, encoded = ''] = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(header ?? '') ?? [];
  return Buffer.from(encoded, 'base64').toString('utf8');
}

function hostName(host: string | undefined): string {
  return (host ?? '').replace(/:\d+$/, '');
}

/** A browser sends `Origin` with every request that changes something; programs such as curl send none. */
function sameOrigin(headers: IncomingHttpHeaders): boolean {
  const { origin, host } = headers;
  if (origin === undefined) return headers['sec-fetch-site'] !== 'cross-site';
  return URL.parse(origin)?.host === host;
}
