import { connect as connectPlain, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { readRedisUrl } from '../redis-address.ts';
import { diagnoseAnswer, type RedisDiagnosis } from './redis-diagnosis.ts';

const NO_CERTIFICATE =
  'closes the TLS connection without an answer: if it requires client certificates, set tls-auth-clients no in Redis, because unpackd does not support them';
/** Maximum milliseconds of each of the two connections. */
const LIMIT = 1500;

/**
 * Finds out whether only one side uses TLS: sends a plain `PING`, and then tries a TLS handshake. A normal client would see only
 * that no answer comes, or that the connection is closed.
 * @returns the diagnosis; `undefined` if TLS is not the cause
 */
export async function probeRedis(url: string): Promise<RedisDiagnosis | undefined> {
  const address = readRedisUrl(url);
  if (typeof address === 'string') return undefined;
  const { host, port, tls } = address;
  const answer = await ask(connectPlain({ host, port }), 'connect');
  if (/^[+-]/.test(answer ?? '')) {
    const refused = answer?.startsWith('-') ? diagnoseAnswer(answer.slice(1).trim()) : undefined;
    // Redis sends these errors only on a plain connection
    if (refused?.sentence.includes('maxclients') || answer?.startsWith('-DENIED')) return refused;
    return tls ? wrong('does not use TLS: write redis://, not rediss://') : undefined;
  }
  if (answer === undefined) return undefined;
  // the certificate is not checked, because only PING is sent
  const encrypted = await ask(connectTls({ host, port, rejectUnauthorized: false }), 'secureConnect');
  if (!tls) return encrypted === undefined ? undefined : wrong('uses TLS: write rediss://, not redis://');
  return encrypted === '' ? wrong(NO_CERTIFICATE) : undefined;
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
