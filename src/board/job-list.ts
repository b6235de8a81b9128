import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Progress } from '../queue/formats.ts';
import type { JobState } from '../queue/job-status.ts';
import { imageOf } from '../queue/parse-payload.ts';
import { readProgress } from '../queue/progress-schema.ts';

/**
 * Pages of jobs in one state. A page reads the IDs of its own jobs and a few fields of each, so that it takes as long with a
 * hundred thousand jobs as with a hundred. Results are never read here, because one of an image with many layers has hundreds of
 * kilobytes.
 */

/** A row of a list. */
export interface ListedJob {
  readonly id: string;
  readonly state: JobState;
  /** `undefined` if the payload has none. */
  readonly image: string | undefined;
  /** Whether the payload is JSON. Another program can have written something else. */
  readonly readable: boolean;
  readonly added: Date | undefined;
  readonly started: Date | undefined;
  readonly finished: Date | undefined;
  /** When a delayed job is due. */
  readonly due: Date | undefined;
  readonly attemptsMade: number;
  readonly priority: number;
  /** The name of the worker that took the job last. */
  readonly worker: string | undefined;
  readonly failedReason: string | undefined;
  /** Only of active and delayed jobs. */
  readonly progress: Progress | undefined;
}

export interface JobPage {
  readonly jobs: readonly ListedJob[];
  /** The place of the first job, counted from 0. */
  readonly from: number;
  readonly total: number;
}

/** Where a page begins: after a job, or at a place if that job is not in the list any more. */
export interface PageStart {
  readonly after?: string | undefined;
  readonly from: number;
}

/** How BullMQ keeps the jobs of a state, and which are shown first. */
type Order = 'list, next on the right' | 'sorted, lowest first' | 'sorted, highest first';
const ORDERS: Readonly<Record<JobState, Order>> = {
  waiting: 'list, next on the right',
  active: 'list, next on the right',
  prioritized: 'sorted, lowest first',
  delayed: 'sorted, lowest first',
  completed: 'sorted, highest first',
  failed: 'sorted, highest first',
};

/** The score of a delayed job is its time in milliseconds times this number, plus a counter (BullMQ). */
const DELAYED_SCORE = 0x1000;

export class JobLists {
  readonly #redis: Redis;
  readonly #queue: Pick<Queue, 'toKey'>;

  constructor(redis: Redis, queue: Pick<Queue, 'toKey'>) {
    this.#redis = redis;
    this.#queue = queue;
  }

  /** @param size the number of jobs */
  async page(state: JobState, start: PageStart, size: number): Promise<JobPage> {
    const total = await this.#total(state);
    const place = start.after === undefined ? undefined : await this.#placeOf(state, start.after, total);
    const from = place === undefined ? start.from : place + 1;
    return { jobs: await this.read(state, await this.ids(state, from, size)), from, total };
  }

  /** The IDs of a state's jobs in the order of its list, from a place on. */
  async ids(state: JobState, from: number, size: number): Promise<string[]> {
    const key = this.#keyOf(state);
    if (size <= 0) return [];
    switch (ORDERS[state]) {
      case 'list, next on the right':
        return (await this.#redis.lrange(key, -(from + size), -(from + 1))).reverse();
      case 'sorted, lowest first':
        return this.#redis.zrange(key, from, `${from + size - 1}`);
      case 'sorted, highest first':
        return this.#redis.zrevrange(key, from, from + size - 1);
    }
  }

  /** The rows of these jobs. A job that was removed in the meantime is left out. */
  async read(state: JobState, ids: readonly string[]): Promise<ListedJob[]> {
    if (ids.length === 0) return [];
    const pipeline = this.#redis.pipeline();
    const fields = state === 'active' || state === 'delayed' ? [...FIELDS, 'progress'] : FIELDS;
    for (const id of ids) pipeline.hmget(this.#queue.toKey(id), ...fields);
    if (state === 'delayed') for (const id of ids) pipeline.zscore(this.#keyOf(state), id);
    const answers = await results(pipeline.exec());
    return ids.flatMap((id, index) => {
      const score = text(answers[ids.length + index]);
      return listed(id, state, answers[index], score === undefined ? undefined : Number(score) / DELAYED_SCORE) ?? [];
    });
  }

  /** The payloads of these jobs as they are in Redis, for a search. */
  async payloads(ids: readonly string[]): Promise<(string | null)[]> {
    const pipeline = this.#redis.pipeline();
    for (const id of ids) pipeline.hget(this.#queue.toKey(id), 'data');
    return (await results(pipeline.exec())).map((data) => (typeof data === 'string' ? data : null));
  }

  async #total(state: JobState): Promise<number> {
    const key = this.#keyOf(state);
    return ORDERS[state] === 'list, next on the right' ? this.#redis.llen(key) : this.#redis.zcard(key);
  }

  async #placeOf(state: JobState, id: string, total: number): Promise<number | undefined> {
    const key = this.#keyOf(state);
    switch (ORDERS[state]) {
      case 'list, next on the right': {
        const index = await this.#redis.lpos(key, id);
        return index === null ? undefined : total - 1 - index;
      }
      case 'sorted, lowest first':
        return (await this.#redis.zrank(key, id)) ?? undefined;
      case 'sorted, highest first':
        return (await this.#redis.zrevrank(key, id)) ?? undefined;
    }
  }

  #keyOf(state: JobState): string {
    return this.#queue.toKey(state === 'waiting' ? 'wait' : state);
  }
}

/** The fields of a job's hash, by the names of BullMQ: `atm` is the number of attempts, `pb` the worker. */
const FIELDS = ['data', 'timestamp', 'processedOn', 'finishedOn', 'atm', 'priority', 'pb', 'failedReason'] as const;

async function results(exec: Promise<[error: Error | null, result: unknown][] | null>): Promise<unknown[]> {
  return ((await exec) ?? []).map(([error, result]) => {
    if (error !== null) throw error;
    return result;
  });
}

function listed(id: string, state: JobState, answer: unknown, due: number | undefined): ListedJob | undefined {
  const values: readonly unknown[] = Array.isArray(answer) ? answer : [];
  const [data, added, started, finished, attempts, priority, worker, reason, progress] = values.map(text);
  if (data === undefined && added === undefined) return undefined;
  const payload = parsed(data ?? '{}');
  return {
    id,
    state,
    image: imageOf(payload?.value),
    readable: payload !== undefined,
    added: date(number(added)),
    started: date(number(started)),
    finished: date(number(finished)),
    due: date(due),
    attemptsMade: number(attempts) ?? 0,
    priority: number(priority) ?? 0,
    worker,
    failedReason: reason === '' ? undefined : reason,
    progress: progress === undefined ? undefined : readProgress(parsed(progress)?.value),
  };
}

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);

function number(value: string | undefined): number | undefined {
  const parsed = value === undefined || value === '' ? Number.NaN : Number(value);
  return Number.isFinite(parsed) ? parsed : undefined;
}

/** `undefined` for a time that no Date can hold, because other programs write what they like. */
function date(milliseconds: number | undefined): Date | undefined {
  if (milliseconds === undefined || milliseconds <= 0) return undefined;
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? undefined : date;
}

function parsed(json: string): { readonly value: unknown } | undefined {
  try {
    return { value: JSON.parse(json) };
  } catch {
    return undefined;
  }
}
