import { createBullBoard } from '@bull-board/api';
import { FastifyAdapter } from '@bull-board/fastify';
import { Queue } from 'bullmq';
import { type FastifyInstance, fastify } from 'fastify';
import { MetricsPage } from '../metrics/metrics-page.ts';
import { addQueueMetrics } from '../metrics/queue-metrics.ts';
import { impatientConnection, type QueueSettings } from '../queue/connection.ts';
import type { Logger } from '../queue/log.ts';
import { Outages } from '../queue/outages.ts';
import { diagnoseRedisError } from '../queue/redis-diagnosis.ts';
import { displayRedisUrl } from '../redis-address.ts';
import { type AccessSettings, accessRule, OPEN_PATHS } from './access.ts';
import { addHealthRoutes, addMetricsRoute } from './health.ts';
import { listen } from './listen.ts';
import { UnpackQueueAdapter } from './queue-adapter.ts';

export type BoardSettings = AccessSettings & QueueSettings;

export interface Board {
  readonly url: string;
  close(): Promise<void>;
}

/** Time limit in milliseconds for the answer of Redis to a page. */
const REDIS_TIMEOUT = 5000;

/**
 * Serves the queue to people (Bull Board: inspect, retry, promote, clean), to supervisors (`/healthz`, `/readyz`) and to
 * Prometheus (`/metrics`). It starts without Redis, too; its pages then show why Redis is not available.
 * @throws ConfigError if the address is open to other machines without a password; ListenError if it cannot listen there
 */
export async function startBoard(settings: BoardSettings, log: Logger): Promise<Board> {
  const refusal = accessRule(settings);
  const redis = impatientConnection(settings, REDIS_TIMEOUT);
  const queue = new Queue(settings.UNPACK_QUEUE, {
    connection: redis,
    prefix: settings.UNPACK_REDIS_PREFIX,
    skipMetasUpdate: true,
    // the check prints its warnings to the console
    skipVersionCheck: true,
  });
  const where = `Redis at ${displayRedisUrl(settings.REDIS_URL)}`;
  const outages = new Outages({
    redis,
    settings,
    log,
    meanwhile: 'the pages show the outage until Redis is back',
    key: queue.toKey('unpackd-probe'),
  });
  // the board waits for any Redis, even one with wrong settings, because its pages can show the reason
  outages.markWorking();
  queue.on('error', outages.record);

  const app = fastify({ logger: false, forceCloseConnections: true });
  app.addHook('onRequest', async (request, reply) => {
    if (OPEN_PATHS.has(request.url)) return;
    const refused = refusal(request.method, request.headers);
    if (refused !== undefined) {
      if (refused.status === 401) reply.header('www-authenticate', 'Basic realm="unpackd", charset="UTF-8"');
      return reply.status(refused.status).type('text/plain').send(`${refused.sentence}\n`);
    }
    // its page says which parts are missing
    if (request.url === '/metrics') return;
    if (redis.status !== 'ready') {
      return reply
        .status(503)
        .type('text/plain')
        .send(`${where} ${outages.diagnosis ?? 'does not answer'}.\n`);
    }
    // browsers must not show the board in a frame of another page (clickjacking)
    reply.header('x-frame-options', 'DENY');
  });
  addHealthRoutes(app, (timeout) => outages.whyNotReady(timeout));
  const metrics = new MetricsPage('board');
  addQueueMetrics(metrics, redis, queue);
  addMetricsRoute(app, metrics);
  const explained = (error: unknown): unknown => {
    const diagnosis = diagnoseRedisError(error);
    if (diagnosis === undefined) return error;
    outages.record(error);
    return Object.assign(new Error(`${where} ${diagnosis.sentence}.`), { statusCode: 503 });
  };
  app.setErrorHandler((error, _request, reply) => {
    const plain = explained(error);
    if (plain === error) throw error;
    return reply
      .status(503)
      .type('text/plain')
      .send(`${plain instanceof Error ? plain.message : ''}\n`);
  });
  await addBullBoard(app, queue, explained);

  const end = async () => {
    await app.close();
    outages.close();
    redis.disconnect();
  };
  const address = { host: settings.UNPACK_BOARD_HOST, port: settings.UNPACK_BOARD_PORT };
  const url = await listen(app, {
    ...address,
    hostSetting: 'UNPACK_BOARD_HOST',
    portSetting: 'UNPACK_BOARD_PORT',
  }).catch(async (error: unknown) => {
    await end();
    throw error;
  });
  log.info({ url, queue: settings.UNPACK_QUEUE, redis: displayRedisUrl(settings.REDIS_URL) }, `board at ${url}`);
  let closed: Promise<void> | undefined;
  return {
    url,
    close() {
      closed ??= end();
      return closed;
    },
  };
}

/** Bull Board's adapter, with errors of Redis explained. */
class ExplainingAdapter extends FastifyAdapter {
  readonly #explained: (error: unknown) => unknown;

  constructor(explained: (error: unknown) => unknown) {
    super();
    this.#explained = explained;
  }

  override setErrorHandler(handler: Parameters<FastifyAdapter['setErrorHandler']>[0]): this {
    return super.setErrorHandler((error) => handler(this.#explained(error) as typeof error)); // the result is an Error, too
  }
}

async function addBullBoard(app: FastifyInstance, queue: Queue, explained: (error: unknown) => unknown): Promise<void> {
  const server = new ExplainingAdapter(explained);
  createBullBoard({
    queues: [new UnpackQueueAdapter(queue)],
    serverAdapter: server,
    options: {
      uiConfig: { boardTitle: 'unpackd', hideDocsLink: true, pollingInterval: { showSetting: true } },
    },
  });
  server.setBasePath('');
  await app.register(server.registerPlugin());
}
