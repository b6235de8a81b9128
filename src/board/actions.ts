import type { Queue } from 'bullmq';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { FAILURE_CODES, type FailureCode } from '../errors.ts';
import type { UnpackQueue } from '../queue/producer.ts';
import { count } from '../units.ts';
import { jobUrl } from './elements.ts';
import { formValue, isOwnForm } from './form-guard.ts';
import { type Html, html } from './html.ts';
import { donePage, errorPage, type Page } from './layout.ts';

/**
 * What the buttons of the pages do: each is a form of the board's own. They change the queue only in ways that workers and
 * producers expect. The raw view changes nothing.
 */

export interface ActionParts {
  readonly queue: Queue;
  readonly producer: UnpackQueue;
  readonly send: (reply: FastifyReply, page: Page, status?: number) => FastifyReply;
}

/** What a person has done, by the query `done` of the page that is shown then. */
export const NOTICES: Readonly<Record<string, string>> = {
  retry: 'The job waits again, with all its attempts.',
  cancel: 'The cancel request is set. The next worker that sees it ends the job.',
  pause: 'The queue is paused: workers take no jobs until somebody resumes it. Running jobs continue.',
  resume: 'The queue is resumed: workers take jobs.',
};

/** Milliseconds in which failed jobs are retried together. */
export const RETRIED_SINCE = 3_600_000;
/** Maximum number of jobs that are retried together, so that the answer takes a few seconds at most. */
const RETRIED_MOST = 1000;

const NOT_OURS =
  'The form is not from this board, or it is too old. Go back, load the page again, and press the button there.';

export function addActions(app: FastifyInstance, { queue, producer, send }: ActionParts): void {
  const post = (path: string, back: (request: FastifyRequest) => Html, act: Act) =>
    app.post(path, async (request, reply) => {
      if (!isOwnForm(request)) return send(reply, errorPage('Refused', NOT_OURS, back(request)), 403);
      const outcome = await act(request);
      if ('goTo' in outcome) return reply.redirect(outcome.goTo, 303);
      return 'done' in outcome
        ? send(reply, donePage('Done', outcome.done, back(request)))
        : send(reply, errorPage('Not done', outcome.whyNot, back(request)), 409);
    });

  const ofJob = (name: 'retry' | 'cancel', change: (id: string) => Promise<string | undefined>) =>
    post(
      `/jobs/:id/${name}`,
      (request) => html`<a href="${jobUrl(idOf(request))}">Back to the job</a>`,
      async (request) => {
        const id = idOf(request);
        const whyNot = await change(id);
        return whyNot === undefined ? { goTo: `${jobUrl(id)}?done=${name}` } : { whyNot };
      },
    );
  ofJob('cancel', async (id) => ((await producer.cancel(id)) ? undefined : 'The job has already completed or failed.'));
  ofJob('retry', async (id) => {
    const [outcome] = await producer.retry([id]);
    return outcome?.retried === false ? outcome.message : undefined;
  });

  const overview = () => html`<a href="/">Overview</a>`;
  post('/pause', overview, async () => {
    await queue.pause();
    return { goTo: '/?done=pause' };
  });
  post('/resume', overview, async () => {
    await queue.resume();
    return { goTo: '/?done=resume' };
  });

  const failedJobs = () => html`<a href="/jobs?state=failed">Failed jobs</a>`;
  post('/retry', failedJobs, async (request) => {
    const code = formValue(request, 'code') ?? '';
    if (!isCode(code)) return { whyNot: 'There is no such failure code.' };
    const all = await producer.failed(code, Date.now() - RETRIED_SINCE);
    const outcomes = await producer.retry(all.slice(0, RETRIED_MOST));
    const refused = outcomes.filter(({ retried }) => !retried).length;
    const done = outcomes.length - refused;
    const left = all.length - outcomes.length;
    const sentences = [
      `${count(done, 'job')} that failed with ${code} ${done === 1 ? 'waits' : 'wait'} again, with all attempts.`,
      ...(refused > 0
        ? [
            `${count(refused, 'job')} ${refused === 1 ? 'was' : 'were'} not retried: added, retried or removed meanwhile.`,
          ]
        : []),
      ...(left > 0 ? [`${left} are left: press the button again.`] : []),
    ];
    return { done: sentences.join(' ') };
  });
}

/** Does what a form asks for. The outcome is the page to go to, or a sentence. */
type Act = (request: FastifyRequest) => Promise<Outcome>;
type Outcome = { readonly goTo: string } | { readonly done: string } | { readonly whyNot: string };

function isCode(text: string): text is FailureCode {
  return Object.hasOwn(FAILURE_CODES, text);
}

function idOf({ params }: FastifyRequest): string {
  return (params as { readonly id: string }).id; // the route has this parameter
}
