import type { Queue } from 'bullmq';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Redis } from 'ioredis';
import { JOB_STATES } from '../queue/job-status.ts';
import { failuresSince } from '../queue/overview.ts';
import type { UnpackQueue } from '../queue/producer.ts';
import type { QueueHistory } from '../queue/queue-history.ts';
import { StoreLists } from '../queue/store-images.ts';
import { readWorkers } from '../queue/worker-presence.ts';
import { addActions, NOTICES, RETRIED_SINCE } from './actions.ts';
import type { Assets } from './assets.ts';
import { jobUrl } from './elements.ts';
import { finishedCounts } from './finished-per-minute.ts';
import { formField } from './form-guard.ts';
import { html } from './html.ts';
import { type FoundImage, findImages, IMAGE_ORDERS } from './image-list.ts';
import { readJob } from './job-details.ts';
import { JobLists } from './job-list.ts';
import { searchImages } from './job-search.ts';
import { errorPage, layout, type Page } from './layout.ts';
import { imagePage } from './pages/image.ts';
import { imagesPage } from './pages/images.ts';
import { jobPage, rawPage } from './pages/job.ts';
import { jobsPage, PAGE_SIZE } from './pages/jobs.ts';
import { overTimePage, RANGES } from './pages/over-time.ts';
import { overviewPage } from './pages/overview.ts';
import { searchPage } from './pages/search.ts';
import { workersPage } from './pages/workers.ts';
import { connectedWorkers, readOverview } from './read-overview.ts';

/** Which path shows which page. Every page is made anew from Redis. */

export interface PageSources {
  readonly redis: Redis;
  readonly queue: Queue;
  readonly producer: UnpackQueue;
  readonly history: QueueHistory;
  readonly assets: Assets;
}

/** Milliseconds between two refreshes of a page that hardly changes. */
const SLOW = 10_000;
/** Maximum number of characters of a search. */
const LONGEST = 500;

type Query = Readonly<Record<string, unknown>>;

export function addPages(app: FastifyInstance, { redis, queue, producer, history, assets }: PageSources): void {
  const lists = new JobLists(redis, queue);
  const storeLists = new StoreLists(redis, queue);
  const send = (reply: FastifyReply, page: Page, status = 200) => sendPage(reply, page, queue.name, assets, status);

  const noticeOf = ({ query }: FastifyRequest) => NOTICES[text((query as Query).done) ?? ''];

  app.get('/', async (request, reply) => {
    const now = Date.now();
    const overview = await readOverview(queue, redis, lists, now);
    const { length } = overview.problems;
    const options = { now, notice: noticeOf(request), formField: formField(request, reply) };
    const title = length === 0 ? 'Overview' : `${length} ${length === 1 ? 'problem' : 'problems'}`;
    return send(reply, { title, section: '/', content: overviewPage(overview, options) });
  });

  app.get('/jobs', async (request, reply) => {
    const query = request.query as Query;
    const state = JOB_STATES.find((one) => one === query.state) ?? 'active';
    const start = { after: text(query.after), from: place(query.from) };
    const now = Date.now();
    const [page, counts, failures] = await Promise.all([
      lists.page(state, start, PAGE_SIZE),
      producer.counts(),
      state === 'failed' ? failuresSince(queue, redis, now - RETRIED_SINCE) : [],
    ]);
    const retried = { failures, formField: formField(request, reply) };
    const content = jobsPage(state, page, counts, retried, now);
    return send(reply, { title: `Jobs: ${state}`, section: '/jobs', content });
  });

  app.get('/search', async (request, reply) => {
    const query = request.query as Query;
    const wanted = (text(query.q) ?? '').trim();
    if (wanted === '') return reply.redirect('/jobs', 303);
    if ((await redis.exists(queue.toKey(wanted))) === 1 && (await queue.getJobState(wanted)) !== 'unknown')
      return reply.redirect(jobUrl(wanted), 303);
    const state = JOB_STATES.find((one) => one === query.in);
    const found = await searchImages(lists, wanted, state && { state, from: place(query.from) });
    const content = searchPage(wanted, found, Date.now());
    return send(reply, { title: `Search: ${wanted}`, section: '/jobs', content, query: wanted, refresh: 0 });
  });

  app.get('/jobs/:id', async (request, reply) => {
    const id = idOf(request);
    const details = await readJob(id, producer, queue, redis);
    const { status } = details;
    const field = formField(request, reply);
    const notice = noticeOf(request);
    const content = jobPage(id, details, { now: Date.now(), notice, formField: field });
    const ended = typeof status === 'string' || status.finished !== undefined;
    const title = typeof status === 'string' ? id : `${status.state}: ${status.image ?? id}`;
    return send(reply, { title, section: '/jobs', content, refresh: ended ? SLOW : 2000 });
  });

  app.get('/jobs/:id/raw/:field', async (request, reply) => {
    const id = idOf(request);
    const field = text((request.params as Query).field) ?? '';
    const content = rawPage(id, field, await redis.hgetall(queue.toKey(id)));
    if (content === undefined) {
      const back = html`<a href="${jobUrl(id)}">The job</a>`;
      return send(reply, errorPage('No such field', `Job ${id} is not there, or does not have this field.`, back), 404);
    }
    return send(reply, { title: field, section: '/jobs', content, refresh: 0 });
  });

  app.get('/images', async (request, reply) => {
    const asked = request.query as Query;
    const order = IMAGE_ORDERS.find((one) => one === asked.order) ?? 'used';
    const query = { text: (text(asked.q) ?? '').trim().slice(0, LONGEST), store: text(asked.store), order };
    const [workers, stores] = await Promise.all([readWorkers(redis, queue), storeLists.read()]);
    const found = findImages(stores, query);
    const content = imagesPage({ stores, workers, found, query, from: place(asked.from), now: Date.now() });
    return send(reply, { title: 'Images', section: '/images', content, refresh: SLOW });
  });

  app.get('/image', async (request, reply) => {
    const { reference, platform, manifest, chain } = request.query as Query;
    const stores = await storeLists.read();
    const wanted = [text(reference), text(platform) ?? '', text(manifest), text(chain)];
    const isWanted = (one: FoundImage) =>
      [one.reference, one.platform, one.manifest, one.chainId].every((part, index) => part === wanted[index]);
    const found = findImages(stores, { text: text(reference) ?? '', store: undefined, order: 'used' }).find(isWanted);
    if (found === undefined) {
      const sentence = 'No store lists this image: it was removed, or its reference leads to another image now.';
      return send(reply, errorPage('No such image', sentence, html`<a href="/images">All images</a>`), 404);
    }
    const content = imagePage(found, stores.length, Date.now());
    return send(reply, { title: found.reference, section: '/images', content, refresh: SLOW });
  });

  app.get('/workers', async (_request, reply) => {
    const [workers, connected] = await Promise.all([readWorkers(redis, queue), connectedWorkers(queue)]);
    return send(reply, { title: 'Workers', section: '/workers', content: workersPage(workers, connected, Date.now()) });
  });

  app.get('/queue', async (request, reply) => {
    const range = RANGES.find(({ name }) => name === (request.query as Query).range) ?? RANGES[0];
    const { minutes, bins } = range;
    const now = Date.now();
    const [completed, failed] = await Promise.all([
      finishedCounts(queue, 'completed', minutes, bins, now),
      finishedCounts(queue, 'failed', minutes, bins, now),
      history.sample(now),
    ]);
    const measured = await history.largest(minutes, bins, now);
    const content = overTimePage({ range, completed, failed, measured });
    return send(reply, { title: 'Over time', section: '/queue', content, refresh: SLOW });
  });

  addActions(app, { queue, producer, send });
}

/** What the pages may load and do: nothing from other hosts, no inline script or style, no frame of another page. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ');

export function sendPage(reply: FastifyReply, page: Page, queue: string, assets: Assets, status = 200): FastifyReply {
  return reply
    .status(status)
    .type('text/html; charset=utf-8')
    .header('content-security-policy', POLICY)
    .header('cache-control', 'no-store')
    .send(layout(page, queue, assets).toString());
}

function idOf(request: FastifyRequest): string {
  return text((request.params as Query).id) ?? ''; // the route has this parameter
}

/** A parameter that is given twice is a list: the first is taken. */
function text(value: unknown): string | undefined {
  const one: unknown = Array.isArray(value) ? value[0] : value;
  return typeof one === 'string' && one !== '' ? one : undefined;
}

/** A place in a list, counted from 0. */
function place(value: unknown): number {
  const number = Number(text(value) ?? 0);
  return Number.isSafeInteger(number) && number > 0 ? number : 0;
}
