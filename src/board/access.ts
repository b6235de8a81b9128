import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { isIPv4, isIPv6 } from 'node:net';
import type { Config } from '../config.ts';
import { ConfigError } from '../errors.ts';

export type AccessSettings = Pick<
  Config,
  'UNPACK_BOARD_HOST' | 'UNPACK_BOARD_PORT' | 'UNPACK_BOARD_USER' | 'UNPACK_BOARD_PASSWORD'
>;

/** Why a request is refused. */
export interface Refusal {
  readonly status: 401 | 403;
  readonly sentence: string;
}

/** Paths that need no password, because probes have none. They reveal only whether the process is up or down. */
export const OPEN_PATHS: ReadonlySet<string> = new Set(['/healthz', '/readyz']);

/**
 * Decides who is allowed to use the board: if a user is set, only that user; otherwise everyone on this machine. Without a user
 * the board must listen on loopback.
 *
 * A foreign web page in a browser can send requests to this machine, too. Such a request has a foreign `Origin`. If the host
 * name of the page points to this machine (DNS rebinding), the `Host` of the request is not loopback.
 *
 * @throws ConfigError if the address is not loopback and there is no password, or only one of user and password is set
 */
export function accessRule(
  settings: AccessSettings,
): (method: string, headers: IncomingHttpHeaders) => Refusal | undefined {
  const { UNPACK_BOARD_HOST: host, UNPACK_BOARD_USER: user, UNPACK_BOARD_PASSWORD: password } = settings;
  if ((user === undefined) !== (password === undefined)) {
    const missing = user === undefined ? 'UNPACK_BOARD_USER' : 'UNPACK_BOARD_PASSWORD';
    throw new ConfigError(`${missing} is not set: set both a user and a password, or neither`);
  }
  if (user === undefined && !isLoopback(host)) {
    throw new ConfigError(
      `UNPACK_BOARD_HOST=${host} can be reached from other machines: set UNPACK_BOARD_USER and UNPACK_BOARD_PASSWORD, or use 127.0.0.1`,
    );
  }
  const expected = user === undefined ? undefined : digest(`${user}:${password}`);

  return (method, headers) => {
    if (expected !== undefined) {
      if (!timingSafeEqual(expected, digest(credentials(headers.authorization)))) {
        return { status: 401, sentence: 'The board needs a user and a password.' };
      }
    } else if (!isLoopback(hostName(headers.host))) {
      return { status: 403, sentence: 'The board answers only this machine: open it as localhost or 127.0.0.1.' };
    }
    if (method !== 'GET' && method !== 'HEAD' && !sameOrigin(headers)) {
      return { status: 403, sentence: 'The board refuses requests from other web pages.' };
    }
    return undefined;
  };
}

/** Whether only this machine can reach an address or host name. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[|\]$/g, '').toLowerCase();
  if (isIPv4(name)) return name.startsWith('127.');
  if (isIPv6(name)) return name === '::1' || name.startsWith('::ffff:127.');
  return name === 'localhost';
}

/** A digest has a constant length, so that the comparison takes constant time. */
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
