import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Job, type JobsOptions, Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { CANCEL_FLAG_LIFE, cancelChannel, cancelKey, DEFAULT_CANCEL_REASON } from './cancellation.ts';
import { impatientConnection, type QueueSettings } from './connection.ts';
import { deduplicationId } from './deduplication.ts';
import { JobNotFoundError, QueueUnavailableError, UnreadableJobError, unreadableJob } from './errors.ts';
import { JOB_STATES, type JobState, type JobStatus, statusOf } from './job-status.ts';
import { JobWaiter, type WaitOptions } from './job-waiter.ts';
import { unavailable } from './outages.ts';
import { checkPayload } from './parse-payload.ts';
import type { Payload } from './payload-schema.ts';
import { probeRedis } from './redis-probe.ts';
import { redisTrouble, whyNotReady } from './redis-trouble.ts';
import type { UnpackResult } from './result.ts';

export interface AddOptions {
  /** 1 comes first, 2 097 151 last; a job without comes before all that have one. */
  readonly priority?: number;
  /** Default: the worker's UNPACK_ATTEMPTS. */
  readonly attempts?: number;
  /** Milliseconds before the job may start. */
  readonly delay?: number;
  /** False: add the job even while the same work waits or runs. */
  readonly deduplicate?: boolean;
}

export interface JobHandle {
  readonly id: string;
  /** The same work was waiting or running already; `id` is that job's, and options of this call do not apply to it. */
  readonly deduplicated: boolean;
}

/** Milliseconds that a call may take to find out that Redis is not there. */
const DEFAULT_TIMEOUT = 5000;

/**
 * The producer's side of the queue: adds jobs, waits for them, cancels them. Every call fails with a
 * QueueUnavailableError within five seconds when Redis is away; none hangs, and none takes effect later.
 */
export class UnpackQueue {
  readonly #settings: QueueSettings;
  readonly #timeout: number;
  readonly #redis: Redis;
  readonly #queue: Queue;
  #waiter: JobWaiter | undefined;
  /** The last error of the connection, since it was made or could not be. */
  #last: unknown;
  #closed = false;

  /**
   * @param timeout milliseconds after which a call gives up on Redis
   * @throws ConfigError for a REDIS_URL or REDIS_PASSWORD_FILE that cannot be used
   */
  constructor(settings: QueueSettings, timeout: number = DEFAULT_TIMEOUT) {
    this.#settings = settings;
    this.#timeout = timeout;
    this.#redis = impatientConnection(settings, timeout);
    // each call reports what it meets; an event has nobody to go to
    this.#redis.on('error', (error) => {
      // what follows from a wrong setting says less than it
      if (redisTrouble(this.#last)?.kind !== 'settings') this.#last = error;
    });
    this.#redis.on('connect', () => {
      this.#last = undefined;
    });
    this.#queue = new Queue(settings.UNPACK_QUEUE, {
      connection: this.#redis,
      prefix: settings.UNPACK_REDIS_PREFIX,
      skipMetasUpdate: true,
      // what it finds it prints to the console
      skipVersionCheck: true,
    });
    this.#queue.on('error', () => {});
  }

  /**
   * Adds a job. The payload is checked first, so that a wrong one fails here and not on a worker.
   * @throws UnpackError INVALID_JOB; QueueUnavailableError, after which the job may be in the queue or not: add it again,
   *   the same work gives one job
   */
  async add(payload: Payload, options: AddOptions = {}): Promise<JobHandle> {
    const [handle] = await this.addBulk([{ payload, options }]);
    if (handle === undefined) throw new Error('BullMQ added no job and reported no error');
    return handle;
  }

  /** Adds several jobs in one round trip. @throws as add; some of the jobs may be in the queue then */
  async addBulk(jobs: readonly { readonly payload: Payload; readonly options?: AddOptions }[]): Promise<JobHandle[]> {
    const entries = jobs.map(({ payload, options = {} }) => {
      const data = checkPayload(payload);
      return { name: this.#settings.UNPACK_JOB, data, opts: jobOptions(data, options) };
    });
    const added = await this.#ask(() => this.#queue.addBulk(entries));
    return added.map((job, index) => ({ id: job.id ?? '', deduplicated: job.id !== entries[index]?.opts.jobId }));
  }

  /**
   * Waits for the end of a job, however many attempts that takes.
   * @returns the result
   * @throws UnpackError as the job failed; UnreadableJobError where its result is none; JobNotFoundError; WaitTimeoutError; QueueUnavailableError when Redis stays away
   *   for longer than the queue's time limit; the signal's reason
   */
  async wait(job: string | JobHandle, options: WaitOptions = {}): Promise<UnpackResult> {
    this.#waiter ??= new JobWaiter(this.#settings, (id) => this.status(id));
    try {
      return await this.#waiter.wait(typeof job === 'string' ? job : job.id, options);
    } catch (error) {
      throw this.#explained(error);
    }
  }

  /**
   * Asks for the end of a job that waits or runs; a waiting one goes to the front, so that the next free worker ends it.
   * The same work can be added again at once.
   * @returns false when the job had ended already
   * @throws JobNotFoundError, UnreadableJobError, QueueUnavailableError
   */
  async cancel(jobId: string, reason: string = DEFAULT_CANCEL_REASON): Promise<boolean> {
    return this.#ask(async () => {
      const job = await this.#job(jobId);
      const state = await job.getState();
      if (state === 'completed' || state === 'failed') return false;
      await this.#redis.set(cancelKey(this.#queue, jobId), reason, 'PX', CANCEL_FLAG_LIFE);
      await job.removeDeduplicationKey();
      // whose Redis user may not use channels is heard two seconds later
      await this.#redis.publish(cancelChannel(this.#queue), jobId).catch((error: unknown) => {
        if (redisTrouble(error)?.kind === 'away') throw error;
      });
      // a worker may take it between these calls, and then finds the flag
      if (state === 'delayed') await job.promote().catch(ignoreUnlessTrouble);
      if (state !== 'active') await job.changePriority({ priority: 0, lifo: true }).catch(ignoreUnlessTrouble);
      return true;
    });
  }

  /** @throws JobNotFoundError, UnreadableJobError, QueueUnavailableError */
  async status(jobId: string): Promise<JobStatus> {
    return this.#ask(async () => {
      // the state first: a job that ends in between is then seen as not ended yet, never as ended without a result
      const state = await this.#queue.getJobState(jobId);
      const job = await this.#job(jobId);
      const flag = await this.#redis.exists(cancelKey(this.#queue, jobId));
      return statusOf(job, state, flag === 1);
    });
  }

  /** Jobs by state. @throws QueueUnavailableError */
  async counts(): Promise<Record<JobState, number>> {
    return this.#ask(async () => {
      const counts = await this.#queue.getJobCounts(...JOB_STATES);
      const entries = JOB_STATES.map((state) => [state, counts[state] ?? 0]);
      // fromEntries forgets that these are all the states
      return Object.fromEntries(entries) as Record<JobState, number>;
    });
  }

  /** Ends the connections; waiting calls fail. A second call does nothing. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#waiter?.close();
    await this.#queue.close().catch(() => {});
    this.#redis.disconnect();
  }

  async #job(jobId: string): Promise<Job> {
    const job = await this.#queue.getJob(jobId).catch((error: unknown) => {
      // BullMQ takes every field for JSON
      throw error instanceof SyntaxError ? new UnreadableJobError(unreadableJob(jobId)) : error;
    });
    if (job === undefined) throw new JobNotFoundError(jobId);
    return job;
  }

  /** Runs `work` while Redis is there, and gives up on it after the queue's time limit. */
  async #ask<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed) throw new QueueUnavailableError('the queue has been closed');
    const deadline = Date.now() + this.#timeout;
    await this.#connected(deadline);
    const timer = new AbortController();
    const late = sleep(Math.max(1, deadline - Date.now()), undefined, { signal: timer.signal }).then(
      () => {
        throw unavailable(this.#settings, 'is not available: it did not answer');
      },
      () => new Promise<never>(() => {}),
    );
    try {
      return await Promise.race([work(), late]);
    } catch (error) {
      throw this.#explained(error);
    } finally {
      timer.abort();
    }
  }

  /** What Redis answered, as an error of this queue; any other error as it is. */
  #explained(error: unknown): unknown {
    const trouble = redisTrouble(error);
    return trouble === undefined ? error : unavailable(this.#settings, trouble.sentence, error);
  }

  /** Waits for a connection before anything is sent, so that a call which failed does not happen after all. */
  async #connected(deadline: number): Promise<void> {
    while (true) {
      const trouble = redisTrouble(this.#last);
      // no wait mends a setting
      if (trouble?.kind === 'settings') throw unavailable(this.#settings, trouble.sentence, this.#last);
      if (this.#redis.status === 'ready') return;
      if (Date.now() >= deadline || this.#redis.status === 'end') throw await this.#whyNotConnected();
      await sleep(20);
    }
  }

  async #whyNotConnected(): Promise<QueueUnavailableError> {
    const asked = this.#redis.status === 'connect' ? await whyNotReady(this.#redis) : undefined;
    const trouble = asked ?? redisTrouble(this.#last);
    const found =
      trouble !== undefined && trouble.kind !== 'away' ? undefined : await probeRedis(this.#settings.REDIS_URL);
    return unavailable(
      this.#settings,
      (found ?? trouble)?.sentence ?? 'is not available: it cannot be reached',
      this.#last,
    );
  }
}

function jobOptions(
  payload: Payload,
  { priority, attempts, delay, deduplicate = true }: AddOptions,
): JobsOptions & { jobId: string } {
  return {
    // one's own ID tells whether it was this call that made the job
    jobId: randomUUID(),
    ...(priority === undefined ? {} : { priority }),
    ...(attempts === undefined ? {} : { attempts }),
    ...(delay === undefined ? {} : { delay }),
    ...(deduplicate ? { deduplication: { id: deduplicationId(payload) } } : {}),
  };
}

/** A job that is no longer where it was found has been taken by a worker, which looks for the flag. */
function ignoreUnlessTrouble(error: unknown): void {
  if (redisTrouble(error) !== undefined) throw error;
}
