import { createBullBoard } from '@bull-board/api';
import { FastifyAdapter } from '@bull-board/fastify';
import type { Queue } from 'bullmq';
import type { FastifyInstance } from 'fastify';
import { UnpackQueueAdapter } from './queue-adapter.ts';

/**
 * The path of Bull Board: the raw view of the queue. It changes nothing, because its actions do not know what unpackd keeps beside
 * the jobs: its "promote" loses the place of a parked job, its "edit" and "add" check no payload and no deduplication, and its "clean"
 * and "empty" leave cancel requests behind.
 */
export const BULL_PATH = '/bull';

/**
 * What Bull Board's pages may load: only from this board. Its page asks for fonts of another host, and its styles are set by
 * scripts.
 */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "font-src 'self'",
  "connect-src 'self'",
  "form-action 'self'",
  "base-uri 'self'",
  "frame-ancestors 'none'",
].join('; ');

const READ_ONLY =
  'The raw view changes nothing: retry, cancel and pause on the pages of the board, or with the commands of unpackd.';

/** An element of a page that loads something from another host. */
const FOREIGN = /<(?:link|script|img)\b[^>]*\b(?:href|src)="(?:https?:)?\/\/[^>]*>(?:<\/script>)?/gi;

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

/**
 * Serves Bull Board below BULL_PATH, without what its page would load from other hosts: the browser of an operator may have no
 * way to them, and they would learn who looks at the board.
 */
export async function addBullBoard(
  app: FastifyInstance,
  queue: Queue,
  explained: (error: unknown) => unknown,
): Promise<void> {
  const server = new ExplainingAdapter(explained);
  createBullBoard({
    queues: [new UnpackQueueAdapter(queue)],
    serverAdapter: server,
    options: {
      uiConfig: {
        boardTitle: 'unpackd',
        hideDocsLink: true,
        pollingInterval: { showSetting: true },
        miscLinks: [{ text: 'unpackd', url: '/' }],
      },
    },
  });
  server.setBasePath(BULL_PATH);
  // Bull Board refuses most of them by itself, because the queue is read-only there
  app.addHook('onRequest', async ({ method, url }, reply) => {
    if (method === 'GET' || method === 'HEAD' || !/^\/bull(?![^/?])/.test(url)) return;
    return reply.status(405).header('allow', 'GET, HEAD').type('text/plain').send(`${READ_ONLY}\n`);
  });
  await app.register(
    async (scope) => {
      scope.addHook('onSend', async (_request, reply, payload) => {
        if (!String(reply.getHeader('content-type')).startsWith('text/html')) return payload;
        reply.header('content-security-policy', POLICY);
        if (typeof payload !== 'string') return payload;
        reply.removeHeader('content-length');
        return payload.replace(FOREIGN, '');
      });
      await scope.register(server.registerPlugin());
    },
    { prefix: BULL_PATH },
  );
}
