import { Queue } from 'bullmq';
import { type FastifyReply, type FastifyRequest, fastify } from 'fastify';
import { MetricsPage } from '../metrics/metrics-page.ts';
import { addQueueMetrics } from '../metrics/queue-metrics.ts';
import { impatientConnection, type QueueSettings } from '../queue/connection.ts';
import { JobNotFoundError, QueueUnavailableError } from '../queue/errors.ts';
import type { Logger } from '../queue/log.ts';
import { Outages } from '../queue/outages.ts';
import { UnpackQueue } from '../queue/producer.ts';
import { QueueHistory } from '../queue/queue-history.ts';
import { diagnoseRedisError, errorSource } from '../queue/redis-diagnosis.ts';
import { displayRedisUrl } from '../redis-address.ts';
import { type AccessSettings, accessRule, OPEN_PATHS } from './access.ts';
import { serveAssets } from './assets.ts';
import { addBullBoard } from './bull-board.ts';
import { addHealthRoutes, addMetricsRoute } from './health.ts';
import { errorPage } from './layout.ts';
import { listen } from './listen.ts';
import { addPages, sendPage } from './routes.ts';

export type BoardSettings = AccessSettings & QueueSettings;

export interface Board {
  readonly url: string;
  close(): Promise<void>;
}

/** Time limit in milliseconds for the answer of Redis to a page. */
const REDIS_TIMEOUT = 5000;
/** What a person should know while Redis is away. */
const MEANWHILE =
  'Workers wait for Redis and continue by themselves. This page comes back by itself, too. unpackd doctor says more.';
/** Maximum number of characters of a job's ID in an address. */
const MAX_ID = 2000;

/**
 * Serves the queue to people (the pages of `routes.ts`, and Bull Board as the raw view), to supervisors (`/healthz`, `/readyz`)
 * and to Prometheus (`/metrics`). It starts without Redis, too; its pages then show why Redis is not available.
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

  const producer = new UnpackQueue(settings, REDIS_TIMEOUT);
  const app = fastify({
    logger: false,
    forceCloseConnections: true,
    routerOptions: { maxParamLength: MAX_ID },
    // addresses that cannot be read
    frameworkErrors: (error, _request, reply) => {
      reply.raw
        .writeHead(error.statusCode ?? 400, { 'content-type': 'text/plain' })
        .end('This board has no page at this address: it is too long, or wrongly encoded.\n');
    },
  });
  // forms of the pages
  app.addContentTypeParser(
    'application/x-www-form-urlencoded',
    { parseAs: 'string', bodyLimit: 4096 },
    async (_request: FastifyRequest, body: string) => new URLSearchParams(body),
  );
  const assets = serveAssets(app);
  /** One sentence: a page for a browser, text for a program. */
  const sendProblem = (
    request: FastifyRequest,
    reply: FastifyReply,
    status: number,
    title: string,
    sentence: string,
  ) =>
    /\btext\/html\b/.test(request.headers.accept ?? '')
      ? sendPage(
          reply,
          { ...errorPage(title, sentence, status === 503 ? MEANWHILE : undefined), refresh: 3000 },
          queue.name,
          assets,
          status,
        )
      : reply.status(status).type('text/plain').send(`${sentence}\n`);
  app.addHook('onRequest', async (request, reply) => {
    if (OPEN_PATHS.has(request.url)) return;
    const refused = refusal(request.method, request.headers);
    if (refused !== undefined) {
      if (refused.status === 401) reply.header('www-authenticate', 'Basic realm="unpackd", charset="UTF-8"');
      return reply.status(refused.status).type('text/plain').send(`${refused.sentence}\n`);
    }
    // browsers must not show the board in a frame of another page (clickjacking)
    reply
      .header('x-frame-options', 'DENY')
      .header('x-content-type-options', 'nosniff')
      // with `no-referrer` a browser sends the forms with the origin `null`
      .header('referrer-policy', 'same-origin');
    // without Redis, `/metrics` says which parts are missing
    if (redis.status !== 'ready' && request.url !== '/metrics' && !request.url.startsWith('/assets/')) {
      const sentence = `${where} ${outages.diagnosis ?? 'does not answer'}.`;
      return sendProblem(request, reply, 503, 'Redis is away', sentence);
    }
  });
  addHealthRoutes(app, (timeout) => outages.whyNotReady(timeout));
  const metrics = new MetricsPage('board', settings.UNPACK_QUEUE);
  addQueueMetrics(metrics, redis, queue);
  addMetricsRoute(app, metrics);
  const explained = (error: unknown): unknown => {
    const diagnosis = diagnoseRedisError(error, errorSource(settings));
    if (diagnosis === undefined) return error;
    outages.record(error);
    return Object.assign(new Error(`${where} ${diagnosis.sentence}.`), { statusCode: 503 });
  };
  app.setErrorHandler((error, request, reply) => {
    if (error instanceof JobNotFoundError) return sendProblem(request, reply, 404, 'No such job', sentenceOf(error));
    const plain = error instanceof QueueUnavailableError ? error : explained(error);
    if (plain === error && !(error instanceof QueueUnavailableError)) {
      const status = statusOf(error);
      if (status < 500) return sendProblem(request, reply, status, 'Refused', sentenceOf(error));
      log.error({ err: error, url: request.url }, 'the board cannot answer a request');
      return sendProblem(request, reply, 500, 'The board failed', `The board failed: ${sentenceOf(error)}`);
    }
    return sendProblem(request, reply, 503, 'Redis is away', sentenceOf(plain));
  });
  app.setNotFoundHandler((request, reply) => {
    if (request.method === 'GET' || request.method === 'HEAD') {
      return sendProblem(request, reply, 404, 'No such page', 'This board has no page at this address.');
    }
    const sentence = `Nothing is at this address for ${request.method}: the pages are for GET, and the buttons for POST.`;
    return sendProblem(request, reply, 405, 'Refused', sentence);
  });
  const history = new QueueHistory(redis, queue);
  history.start();
  addPages(app, { redis, queue, producer, history, assets });
  await addBullBoard(app, queue, explained);

  const end = async () => {
    await app.close();
    history.stop();
    await producer.close();
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

/** The message of an error as a sentence. */
function sentenceOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return `${message.charAt(0).toUpperCase()}${message.slice(1)}${message.endsWith('.') ? '' : '.'}`;
}

/** The status that an error of the request asks for, as a body that is too large does; otherwise 500. */
function statusOf(error: unknown): number {
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined;
  return typeof status === 'number' && status >= 400 && status < 500 ? status : 500;
}
