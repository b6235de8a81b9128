import { connect as connectPlain, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { readRedisUrl } from '../redis-address.ts';
import { answeredTrouble, type RedisTrouble } from './redis-trouble.ts';

const NO_CERTIFICATE =
  'ends the TLS connection without an answer: where it wants a certificate of its clients, set tls-auth-clients no there, because unpackd has none';
/** Milliseconds for each of at most two tries. */
const LIMIT = 1500;

/**
 * What a server does with a plain `PING`, and then with a TLS handshake. A client that speaks TLS to a server without
 * learns nothing but that no answer comes, and the other way round that the connection is closed.
 * @returns what is wrong; `undefined` where this finds nothing out
 */
export async function probeRedis(url: string): Promise<RedisTrouble | undefined> {
  const address = readRedisUrl(url);
  if (typeof address === 'string') return undefined;
  const { host, port, tls } = address;
  const answer = await ask(connectPlain({ host, port }), 'connect');
  if (/^[+-]/.test(answer ?? '')) {
    const refused = answer?.startsWith('-') ? answeredTrouble(answer.slice(1).trim()) : undefined;
    // those are what no client is told that comes by another way
    if (refused?.sentence.includes('maxclients') || answer?.startsWith('-DENIED')) return refused;
    return tls ? wrong('speaks no TLS: write redis:// and not rediss://') : undefined;
  }
  if (answer === undefined) return undefined;
  // whose certificate is whose does not matter here: nothing is sent but PING
  const encrypted = await ask(connectTls({ host, port, rejectUnauthorized: false }), 'secureConnect');
  if (!tls) return encrypted === undefined ? undefined : wrong('speaks TLS: write rediss:// and not redis://');
  return encrypted === '' ? wrong(NO_CERTIFICATE) : undefined;
}

function wrong(sentence: string): RedisTrouble {
  return { kind: 'settings', sentence };
}

/** The first bytes of the answer to PING; empty for none; `undefined` where there is no connection at all. */
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
