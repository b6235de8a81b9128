import { connect, isIP, type Socket } from 'node:net';
import type { SecureContext, SecureContextOptions } from 'node:tls';
import { authority, type HttpProxy, proxyName } from './proxy.ts';
import { parseResponseHead, type ResponseHead } from './response-head.ts';
import { nodeTls } from './trusted-cas.ts';

/** Maximum size in bytes of a proxy's answer to CONNECT. */
const ANSWER_LIMIT = 64 * 1024;

/** A connection that a proxy does not make. The message names the proxy and says what to do; it has no secret. */
export class ProxyError extends Error {
  override readonly name = 'ProxyError';
  /** Whether a new try cannot help: the proxy asks for another password, or forbids the server. */
  readonly final: boolean;
  /** A code for which the AWS SDK tries again, unless it is final. */
  readonly code: string;

  constructor(message: string, { final = false, cause }: { final?: boolean; cause?: unknown } = {}) {
    super(message, { cause });
    this.final = final;
    this.code = final ? 'PROXY' : 'ECONNREFUSED';
  }
}

/** Sentences for a proxy that cannot be reached, by Node's error code. */
const UNREACHED: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there (connection refused)',
  ECONNRESET: 'it has reset the connection',
  EPIPE: 'it has closed the connection',
  ENOTFOUND: 'its name does not resolve',
  EAI_AGAIN: 'its name could not be resolved for now',
  ETIMEDOUT: 'it did not answer in time',
  EPROTO: 'it does not speak TLS; its URL should begin with http:// instead of https://',
  ERR_SSL_WRONG_VERSION_NUMBER: 'it does not speak TLS; its URL should begin with http:// instead of https://',
  ERR_SSL_PACKET_LENGTH_TOO_LONG: 'it does not speak TLS; its URL should begin with http:// instead of https://',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another name',
  CERT_HAS_EXPIRED: 'its certificate has expired',
};
/** OpenSSL's errors for a certificate that no known CA has signed, by Node's names. */
export const UNTRUSTED_CODES: ReadonlySet<string> = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
]);

/** The error for a connection to the proxy itself that has failed. */
export function unreached(proxy: HttpProxy, cause: Error): ProxyError {
  if (cause instanceof ProxyError) return cause;
  const code = 'code' in cause && typeof cause.code === 'string' ? cause.code : '';
  const why = UNTRUSTED_CODES.has(code)
    ? 'its certificate is signed by an unknown CA; set AWS_CA_BUNDLE to a PEM file with the certificate of the CA'
    : (UNREACHED[code] ?? cause.message);
  return new ProxyError(`${proxyName(proxy)} can't be reached: ${why}; correct ${proxy.variable}, or set NO_PROXY`, {
    cause,
  });
}

/** The error for an answer of a proxy with another status than 2xx. @param server the `host:port` that was asked for */
export function refusedBy(
  proxy: HttpProxy,
  server: string,
  { status, reason }: Pick<ResponseHead, 'status' | 'reason'>,
): ProxyError {
  const name = proxyName(proxy);
  const answer = `${status} ${reason}`.trim();
  // tinyproxy answers 401 to a wrong password
  if (status === 407 || status === 401) {
    const sentence =
      proxy.authorization === undefined
        ? `asks for a user and a password (${answer}): write http://user:password@host:port in ${proxy.variable}`
        : `refuses the user and the password of ${proxy.variable} (${answer}): correct them`;
    return new ProxyError(`${name} ${sentence}`, { final: true });
  }
  if (status >= 500 || status === 408 || status === 429) {
    return new ProxyError(`${name} can't connect to ${server} (${answer}); see the proxy's log, or set NO_PROXY`);
  }
  return new ProxyError(
    `${name} does not allow a connection to ${server} (${answer}): allow it there, or set NO_PROXY`,
    {
      final: true,
    },
  );
}

/** The error for a proxy that does not make a connection in time. @param limit in milliseconds */
export function overdueProxy(proxy: HttpProxy, limit: number): ProxyError {
  const { variable } = proxy;
  return new ProxyError(
    `${proxyName(proxy)} opened no connection within ${limit / 1000} s; correct ${variable}, or set NO_PROXY`,
  );
}

/** The CAs to trust. Default: Node's. */
export interface Trust {
  readonly secureContext?: SecureContext | undefined;
  readonly ca?: SecureContextOptions['ca'];
}

/** A connection to a proxy, for a tunnel. It never has an unhandled error, which would crash the process. */
export function connectToProxy({ secure, host, port }: HttpProxy, trust: Trust): Socket {
  const options = { host, port, noDelay: true, keepAlive: true };
  const socket = secure ? nodeTls().connect({ ...options, ...tlsOptions(host, trust) }) : connect(options);
  return socket.on('error', () => {});
}

/** The options of TLS for a server that speaks HTTP/1.1. */
export function tlsOptions(host: string, { secureContext, ca }: Trust) {
  return {
    ALPNProtocols: ['http/1.1'],
    ...(isIP(host) === 0 ? { servername: host } : {}),
    ...(secureContext === undefined ? {} : { secureContext }),
    ...(ca === undefined ? {} : { ca }),
  };
}

/**
 * Asks a proxy for a tunnel to a server (RFC 9110, 9.3.6). After that, the socket carries the bytes of the server.
 * @param socket connected to the proxy, or connecting
 * @throws ProxyError (the promise rejects)
 */
export function openTunnel(socket: Socket, proxy: HttpProxy, to: { host: string; port: number }): Promise<void> {
  const server = authority(to.host, to.port);
  return new Promise((resolve, reject) => {
    let answer = Buffer.alloc(0);
    const done = (error?: Error): void => {
      socket.off('data', onData).off('error', onError).off('close', onClose);
      socket.pause();
      if (error === undefined) resolve();
      else reject(error);
    };
    const onError = (cause: Error) => done(unreached(proxy, cause));
    const onClose = () => {
      done(new ProxyError(`${proxyName(proxy)} has closed the connection without an answer; see the proxy's log`));
    };
    const onData = (bytes: Buffer): void => {
      answer = Buffer.concat([answer, bytes]);
      const end = answer.indexOf('\r\n\r\n');
      if (end < 0 && answer.length < ANSWER_LIMIT) return;
      try {
        const head = parseResponseHead(answer.toString('latin1', 0, Math.max(0, end)));
        if (head.status >= 300) done(refusedBy(proxy, server, head));
        // a TLS server sends nothing before the client has spoken
        else if (head.status < 200 || answer.length > end + 4) done(noProxy());
        else done();
      } catch (cause) {
        done(noProxy(cause));
      }
    };
    const noProxy = (cause?: unknown) =>
      new ProxyError(`${proxyName(proxy)} does not answer as an HTTP proxy; correct ${proxy.variable}`, { cause });
    socket.on('data', onData).on('error', onError).on('close', onClose);
    const lines = [`CONNECT ${server} HTTP/1.1`, `Host: ${server}`, ...authorizationOf(proxy)];
    socket.write(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
  });
}

/** The header with the password of a proxy, if there is one. */
export function authorizationOf({ authorization }: HttpProxy): string[] {
  return authorization === undefined ? [] : [`Proxy-Authorization: ${authorization}`];
}
