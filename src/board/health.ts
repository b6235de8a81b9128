import { type FastifyInstance, fastify } from 'fastify';
import type { Config } from '../config.ts';
import { listen } from './listen.ts';

/** Time limit in milliseconds for `/readyz`. It is shorter than the time limits of usual probes. */
export const READY_TIMEOUT = 2000;

/**
 * Why a process cannot work, in a sentence; `undefined` if it can.
 * @param timeout time limit in milliseconds for the check
 */
export type WhyNotReady = (timeout: number) => Promise<string | undefined>;

/**
 * `/healthz`: the process is alive. `/readyz`: the process can work; otherwise the status is 503 and the body is the reason,
 * for example that Redis does not answer or the store cannot be written. Board, workers and `unpackd snapshotter` serve both.
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

/** The metrics of a process as text for Prometheus. `MetricsPage` implements it. */
export interface MetricsText {
  readonly contentType: string;
  text(): Promise<string>;
}

/** `/metrics` for Prometheus. Board, workers and `unpackd snapshotter` serve it. */
export function addMetricsRoute(app: FastifyInstance, page: MetricsText): void {
  app.get('/metrics', async (_request, reply) => reply.type(page.contentType).send(await page.text()));
}

/**
 * Serves `/healthz`, `/readyz` and `/metrics` of a worker or of `unpackd snapshotter`, if UNPACK_HEALTH_PORT is set.
 * @throws ListenError if it cannot listen on the address
 */
export async function startHealthServer(
  settings: Pick<Config, 'UNPACK_HEALTH_HOST' | 'UNPACK_HEALTH_PORT'>,
  whyNotReady: WhyNotReady,
  page?: MetricsText,
): Promise<{ url: string; close(): Promise<void> } | undefined> {
  const { UNPACK_HEALTH_HOST: host, UNPACK_HEALTH_PORT: port } = settings;
  if (port === undefined) return undefined;
  const app = fastify({ logger: false, forceCloseConnections: true });
  addHealthRoutes(app, whyNotReady);
  if (page !== undefined) addMetricsRoute(app, page);
  const url = await listen(app, { host, port, hostSetting: 'UNPACK_HEALTH_HOST', portSetting: 'UNPACK_HEALTH_PORT' });
  return { url, close: () => app.close() };
}
