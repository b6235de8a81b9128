import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { type QueueOverview, queueOverview } from '../queue/overview.ts';
import { count } from '../units.ts';
import { html, type Part } from './html.ts';
import type { JobLists } from './job-list.ts';
import type { Overview } from './pages/overview.ts';
import { problemsOf } from './problems.ts';

/** What `/` shows, read from Redis: what `unpackd queue` tells, a few jobs of each state, and what follows from them. */

const SHOWN = { active: 10, failed: 10, waiting: 5 } as const;

export async function readOverview(queue: Queue, redis: Redis, lists: JobLists, now: number): Promise<Overview> {
  const first = async (state: keyof typeof SHOWN) => lists.read(state, await lists.ids(state, 0, SHOWN[state]));
  const [seen, connected, active, failed, next] = await Promise.all([
    queueOverview(queue, redis),
    connectedWorkers(queue),
    first('active'),
    first('failed'),
    first('waiting'),
  ]);
  const { counts, oldestWaiting, workers } = seen;
  const present = workers.filter(({ silent }) => !silent);
  // a delayed job waits on purpose
  const isDelayed = oldestWaiting !== undefined && (await queue.getJobState(oldestWaiting.id)) === 'delayed';
  return {
    paused: seen.paused,
    problems: problemsOf({
      paused: seen.paused,
      waiting: counts.waiting + counts.prioritized,
      active: counts.active,
      // workers of earlier versions do not report
      workers: connected === undefined && present.length === 0 ? undefined : Math.max(present.length, connected ?? 0),
      oldestWait: isDelayed ? waitOf(next[0]?.added, now) : waitOf(oldestWaiting?.ready, now),
      silent: workers
        .filter(({ silent }) => silent)
        .map(({ name, seen }) => ({ name, since: Math.max(0, now - seen.getTime()) })),
      unready: present.flatMap(({ name, state, problem }) =>
        state === 'faulty' ? [`Worker ${name} takes no jobs: ${problem ?? 'its store cannot be written'}.`] : [],
      ),
      failures: seen.failuresOfLastHour,
    }),
    counts,
    oldest: oldestWaiting && { ...oldestWaiting, isDelayed },
    active,
    failed,
    next,
    workers: workersSentence(seen, connected),
  };
}

/** The number of connections of workers; `undefined` if the server does not list its clients. */
export async function connectedWorkers(queue: Queue): Promise<number | undefined> {
  const clients = await queue.getWorkers().catch(() => undefined);
  // BullMQ returns this name if the server has no CLIENT LIST
  return clients?.some(({ name }) => name?.includes('does not support')) ? undefined : clients?.length;
}

/** For how long a job could have been taken, in milliseconds. */
function waitOf(since: Date | undefined, now: number): number | undefined {
  return since === undefined ? undefined : Math.max(0, now - since.getTime());
}

function workersSentence({ workers }: QueueOverview, connected: number | undefined): Part {
  const present = workers.filter(({ silent }) => !silent);
  if (present.length === 0)
    return connected === undefined || connected === 0
      ? 'No worker is connected.'
      : `${count(connected, 'worker')} connected.`;
  const [running, slots] = [
    present.reduce((sum, { running }) => sum + running, 0),
    present.reduce((sum, { slots }) => sum + slots, 0),
  ];
  return html`<a href="/workers">${count(present.length, 'worker')}</a>, which ${present.length === 1 ? 'runs' : 'run'} ${running} of at most ${count(slots, 'job')}.`;
}
