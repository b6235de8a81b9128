import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { impatientConnection, type RedisSettings } from '../../src/queue/connection.ts';
import { displayRedisUrl } from '../../src/redis-address.ts';

/** A Redis (or Valkey) for the demo, which may be somebody else's: it is used under a prefix. */
export interface BorrowedRedis {
  readonly url: string;
  /** `REDIS_PASSWORD_FILE` */
  readonly passwordFile?: string | undefined;
  /** `UNPACK_REDIS_PREFIX` */
  readonly prefix: string;
  /** Removes all that is under the prefix. */
  stop(): Promise<void>;
}

const TIMEOUT = 5000;

/**
 * A server that runs already, under a prefix that nothing else on it has.
 * @throws Error with a sentence when it does not answer within 5 s
 */
export async function borrowRedis(settings: RedisSettings): Promise<BorrowedRedis> {
  const prefix = `unpackd-demo-${randomBytes(4).toString('hex')}`;
  const connection = impatientConnection(settings, TIMEOUT);
  try {
    await once(connection, 'ready', { signal: AbortSignal.timeout(TIMEOUT) });
  } catch (error) {
    connection.disconnect();
    const { message = '', code } = error as NodeJS.ErrnoException;
    const why = message || code || 'it does not answer';
    throw new Error(
      `REDIS_URL is set, but ${displayRedisUrl(settings.REDIS_URL)} can't be used: ${why}; start it, or unset REDIS_URL`,
    );
  }
  connection.on('error', () => {}); // the queue's own connections tell
  return {
    url: settings.REDIS_URL,
    passwordFile: settings.REDIS_PASSWORD_FILE,
    prefix,
    async stop() {
      try {
        for await (const keys of connection.scanStream({ match: `${prefix}:*`, count: 1000 })) {
          if (keys.length > 0) await connection.unlink(keys);
        }
      } finally {
        connection.disconnect();
      }
    },
  };
}
