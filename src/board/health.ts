import { type FastifyInstance, fastify } from 'fastify';
import type { Config } from '../config.ts';
import { listen } from './listen.ts';

/** Milliseconds; a probe that waits longer than its own limit learns nothing. */
export const READY_TIMEOUT = 2000;

/** Why a process can't do its work, in a sentence; `undefined`: it can. It is given its time limit in milliseconds. */
export type WhyNotReady = (timeout: number) => Promise<string | undefined>;

/**
 * `/healthz`: the process is alive. `/readyz`: it can do its work; 503 and the reason where not: Redis does not answer, or a
 * worker's store can't be written.
 */
export function addHealthRoutes(app: FastifyInstance, whyNotReady: WhyNotReady): void {
  app.get('/healthz', async (_request, reply) => reply.type('text/plain').send('alive\n'));
  app.get('/readyz', async (_request, reply) => {
    const reason = await whyNotReady(READY_TIMEOUT);
    return reply
      .status(reason === undefined ? 200 : 503)
      .type('text/plain; charset=utf-8')
      .send(`${reason ?? 'ready'}\n`);
  });
}

/**
 * The probes of a worker, where UNPACK_HEALTH_PORT asks for them.
 * @throws ListenError when the address can't be had
 */
export async function startHealthServer(
  settings: Pick<Config, 'UNPACK_HEALTH_HOST' | 'UNPACK_HEALTH_PORT'>,
  whyNotReady: WhyNotReady,
): Promise<{ url: string; close(): Promise<void> } | undefined> {
  const { UNPACK_HEALTH_HOST: host, UNPACK_HEALTH_PORT: port } = settings;
  if (port === undefined) return undefined;
  const app = fastify({ logger: false, forceCloseConnections: true });
  addHealthRoutes(app, whyNotReady);
  const url = await listen(app, { host, port, hostSetting: 'UNPACK_HEALTH_HOST', portSetting: 'UNPACK_HEALTH_PORT' });
  return { url, close: () => app.close() };
}
