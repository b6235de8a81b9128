import { type FastifyInstance, fastify } from 'fastify';
import type { Config } from '../config.ts';

/** Milliseconds; a probe that waits longer than its own limit learns nothing. */
export const READY_TIMEOUT = 2000;

/**
 * `/healthz`: the process is alive. `/readyz`: it can do its work, which means that Redis answers; 503 where not.
 * @param isReady is given its time limit in milliseconds
 */
export function addHealthRoutes(app: FastifyInstance, isReady: (timeout: number) => Promise<boolean>): void {
  app.get('/healthz', async (_request, reply) => reply.type('text/plain').send('alive\n'));
  app.get('/readyz', async (_request, reply) => {
    const ready = await isReady(READY_TIMEOUT);
    return reply
      .status(ready ? 200 : 503)
      .type('text/plain')
      .send(ready ? 'ready\n' : 'Redis does not answer\n');
  });
}

/**
 * The probes of a worker, where UNPACK_HEALTH_PORT asks for them.
 * @throws Error when the address is taken
 */
export async function startHealthServer(
  settings: Pick<Config, 'UNPACK_HEALTH_HOST' | 'UNPACK_HEALTH_PORT'>,
  isReady: (timeout: number) => Promise<boolean>,
): Promise<{ url: string; close(): Promise<void> } | undefined> {
  const { UNPACK_HEALTH_HOST: host, UNPACK_HEALTH_PORT: port } = settings;
  if (port === undefined) return undefined;
  const app = fastify({ logger: false, forceCloseConnections: true });
  addHealthRoutes(app, isReady);
  const url = await app.listen({ host, port });
  return { url, close: () => app.close() };
}
