import { connect as connectPlain, type Socket } from 'node:net';
import { connect as connectTls, type SecureContextOptions } from 'node:tls';
import { displayRedisUrl, type RedisServer, readRedisUrl } from '../redis-address.ts';
import type { RedisSettings } from '../redis-settings.ts';
import {
  CLIENT_CERTIFICATE,
  diagnoseAnswer,
  type ErrorSource,
  type RedisDiagnosis,
  refusedCertificate,
} from './redis-diagnosis.ts';
import { readTls } from './redis-files.ts';
import { aboutServer } from './redis-primary.ts';

/** Maximum milliseconds of each of the two connections. */
const LIMIT = 1500;

/**
 * Finds out whether only one side uses TLS: sends a plain `PING`, and then tries a TLS handshake. A normal client would see only
 * that no answer comes, or that the connection is closed. Sentinels and nodes of a cluster are all tried.
 * @returns the diagnosis; `undefined` if TLS is not the cause
 */
export async function probeRedis(settings: RedisSettings): Promise<RedisDiagnosis | undefined> {
  const address = readRedisUrl(settings.REDIS_URL);
  if (typeof address === 'string') return undefined;
  const { kind, servers, tls } = address;
  const url = displayRedisUrl(settings.REDIS_URL);
  const right = `write ${tls ? url.replace(/^rediss/, 'redis') : url.replace(/^redis/, 'rediss')} in REDIS_URL`;
  const { cert, key, passphrase } = readTls(settings) ?? {};
  const client =
    cert === undefined || key === undefined
      ? undefined
      : { cert, key, ...(passphrase === undefined ? {} : { passphrase }) };
  const found = await Promise.all(
    servers.map(async (server) => {
      const source: ErrorSource = kind === 'single' ? 'server' : kind === 'sentinel' ? 'sentinel' : 'node';
      const diagnosis = await probeServer(server, tls, client, right);
      return diagnosis === undefined || source === 'server' ? diagnosis : aboutServer(source, server, diagnosis);
    }),
  );
  return found.find((diagnosis) => diagnosis !== undefined);
}

async function probeServer(
  { host, port }: RedisServer,
  tls: boolean,
  client: SecureContextOptions | undefined,
  right: string,
) {
  const answer = await ask(connectPlain({ host, port }), 'connect');
  if (/^[+-]/.test(answer ?? '')) {
    const refused = answer?.startsWith('-') ? diagnoseAnswer(answer.slice(1).trim()) : undefined;
    // Redis sends these errors only on a plain connection
    if (refused?.sentence.includes('maxclients') || answer?.startsWith('-DENIED')) return refused;
    return tls ? wrong(`does not use TLS: ${right}`) : undefined;
  }
  if (answer === undefined) return undefined;
  // the certificate is not checked, because only PING is sent
  const encrypted = await ask(connectTls({ host, port, rejectUnauthorized: false, ...client }), 'secureConnect');
  if (!tls) return encrypted === undefined ? undefined : wrong(`uses TLS: ${right}`);
  if (encrypted !== '') return undefined;
  return client === undefined ? CLIENT_CERTIFICATE : refusedCertificate('without a reason');
}

function wrong(sentence: string): RedisDiagnosis {
  return { kind: 'misconfigured', sentence };
}

/** The first bytes of the answer to PING; empty if there is no answer; `undefined` without a connection. */
function ask(socket: Socket, ready: 'connect' | 'secureConnect'): Promise<string | undefined> {
  return new Promise((resolve) => {
    let answer: string | undefined;
    const end = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(end, LIMIT);
    socket.on(ready, () => {
      answer = '';
      socket.write('PING\r\n');
    });
    socket.on('data', (data) => {
      answer = data.toString('latin1');
      end();
    });
    socket.on('error', end);
    socket.on('close', end);
  });
}
