import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Job, type JobsOptions, Queue, type Telemetry } from 'bullmq';
import type { Redis } from 'ioredis';
import type { FailureCode } from '../errors.ts';
import { durationText } from '../units.ts';
import { CANCEL_FLAG_LIFE, cancelChannel, cancelKey, DEFAULT_CANCEL_REASON } from './cancellation.ts';
import { checkPayload } from './check-payload.ts';
import { hasFailover, impatientConnection, type QueueSettings } from './connection.ts';
import { deduplicationId } from './deduplication.ts';
import { JobNotFoundError, QueueUnavailableError, UnreadableJobError, unreadableJob } from './errors.ts';
import type { Payload, UnpackResult } from './formats.ts';
import { jobPlace } from './job-place.ts';
import { type JobStatus, statusOf } from './job-status.ts';
import { JobWaiter, type WaitOptions } from './job-waiter.ts';
import { unavailable } from './outages.ts';
import { failedJobs, type JobCounts, jobCounts, type QueueOverview, queueOverview } from './overview.ts';
import { diagnoseRedisError, errorSource, isRefusedInFailover, whyNotReady } from './redis-diagnosis.ts';
import { probeRedis } from './redis-probe.ts';
import { type RetryOutcome, retryJobs } from './retry-jobs.ts';

export interface AddOptions {
  /** From 1 (first) to 2,097,151 (last). Jobs without a priority come before all jobs with one. */
  readonly priority?: number;
  /** Default: UNPACK_ATTEMPTS of the worker. */
  readonly attempts?: number;
  /** Minimum time in milliseconds before the job starts. */
  readonly delay?: number;
  /** Whether `add` adds no job if a job for the same work waits or runs; default: true. */
  readonly deduplicate?: boolean;
  /** The span that the worker's spans are children of (W3C Trace Context). Not needed with `QueueOptions.telemetry`. */
  readonly trace?: TraceContext;
}

/** The headers of W3C Trace Context. */
export interface TraceContext {
  readonly traceparent: string;
  readonly tracestate?: string;
}

export interface QueueOptions {
  /** Time limit in milliseconds for the answer of Redis to a call; default: five seconds. */
  readonly timeout?: number;
  /** Makes a span for each call that adds jobs, for example `new BullMQOtel({ tracerName })` of the package bullmq-otel. */
  readonly telemetry?: Telemetry;
}

export interface JobHandle {
  readonly id: string;
  /**
   * Whether a job for the same work was waiting or running. In this case `id` is the ID of that job, and the options have no
   * effect.
   */
  readonly deduplicated: boolean;
}

/** Milliseconds between two attempts of a call that a failover refuses, or whose connection was lost. */
const REPEAT_PAUSE = 100;
/** An error of a lost connection, as ioredis has it. */
const LOST = 'Connection is closed.';
/**
 * What it means if a call has had an effect, and is made again because its answer was lost. `misleading`: the second answer would
 * be about the first effect.
 */
type Twice = 'harmless' | 'misleading';
/** Time limit in milliseconds for the answer of Redis to a call. */
const DEFAULT_TIMEOUT = 5000;
/**
 * Time limit in milliseconds for replicas to confirm a write (UNPACK_REDIS_REPLICAS). A replica that is well needs a few
 * milliseconds. Other calls on the same connection wait meanwhile.
 */
const REPLICATION_LIMIT = 2000;
/** Number of jobs that are retried at the same time. */
const RETRIED_AT_ONCE = 100;

/**
 * The API for producers: adds jobs, waits for them, cancels them. If Redis is not available, every call fails with a
 * QueueUnavailableError within five seconds. A failed call has no effect later.
 */
export class UnpackQueue {
  readonly #settings: QueueSettings;
  readonly #timeout: number;
  readonly #redis: Redis;
  readonly #queue: Queue;
  #waiter: JobWaiter | undefined;
  /** The last error of the connection since its last attempt to connect. */
  #last: unknown;
  #closed = false;
  /** Number of calls that write and are not confirmed yet, with UNPACK_REDIS_REPLICAS. */
  #writing = 0;

  /**
   * @param options or only the time limit in milliseconds for the answer of Redis to a call
   * @throws ConfigError for a REDIS_URL or REDIS_PASSWORD_FILE that cannot be used
   */
  constructor(settings: QueueSettings, options: number | QueueOptions = {}) {
    const { timeout = DEFAULT_TIMEOUT, telemetry } = typeof options === 'number' ? { timeout: options } : options;
    this.#settings = settings;
    this.#timeout = timeout;
    this.#redis = impatientConnection(settings, timeout);
    // each call reports its own error; this listener only records the last one
    this.#redis.on('error', (error) => {
      // keep the error of a wrong setting, because it causes the later errors
      if (diagnoseRedisError(this.#last)?.kind !== 'misconfigured') this.#last = error;
    });
    this.#redis.on('connect', () => {
      this.#last = undefined;
    });
    this.#queue = new Queue(settings.UNPACK_QUEUE, {
      connection: this.#redis,
      prefix: settings.UNPACK_REDIS_PREFIX,
      skipMetasUpdate: true,
      // the check prints its warnings to the console
      skipVersionCheck: true,
      ...(telemetry === undefined ? {} : { telemetry }),
    });
    this.#queue.on('error', () => {});
  }

  /**
   * Adds a job. The payload is checked first.
   * @throws UnpackError INVALID_JOB; QueueUnavailableError. In this case it is unknown whether the job was added: add the job
   * again, because deduplication prevents a second job
   */
  async add(payload: Payload, options: AddOptions = {}): Promise<JobHandle> {
    const [handle] = await this.addBulk([{ payload, options }]);
    if (handle === undefined) throw new Error('BullMQ added no job and reported no error');
    return handle;
  }

  /** Adds several jobs in one round trip. @throws as `add`; if it throws, some of the jobs can be in the queue */
  async addBulk(jobs: readonly { readonly payload: Payload; readonly options?: AddOptions }[]): Promise<JobHandle[]> {
    const entries = jobs.map(({ payload, options = {} }) => {
      const data = checkPayload(payload);
      return { name: this.#settings.UNPACK_JOB, data, opts: jobOptions(data, options) };
    });
    // twice, because the IDs of the jobs are made here, and BullMQ adds an ID once
    const added = await this.#write(() => this.#queue.addBulk(entries), 'harmless');
    return added.map((job, index) => ({ id: job.id ?? '', deduplicated: job.id !== entries[index]?.opts.jobId }));
  }

  /**
   * Waits until a job completes or fails, through all its attempts.
   * @returns the result
   * @throws UnpackError if the job fails; UnreadableJobError if its result has another format; JobNotFoundError;
   *   WaitTimeoutError; QueueUnavailableError if Redis is not available for longer than the queue's time limit; the reason of
   *   the signal
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
   * Cancels a job that waits or runs. A waiting job moves to the front of the queue, and the next free worker fails it with
   * CANCELLED. The same work can be added again at once.
   * @returns false if the job has already completed or failed
   * @throws JobNotFoundError, UnreadableJobError, QueueUnavailableError
   */
  async cancel(jobId: string, reason: string = DEFAULT_CANCEL_REASON): Promise<boolean> {
    return this.#write(async () => {
      const job = await this.#job(jobId);
      const state = await job.getState();
      if (state === 'completed' || state === 'failed') return false;
      await this.#redis.set(cancelKey(this.#queue, jobId), reason, 'PX', CANCEL_FLAG_LIFE);
      await job.removeDeduplicationKey();
      // the Redis user can lack the permission for channels; the worker then reads the flag within two seconds
      await this.#redis.publish(cancelChannel(this.#queue), jobId).catch((error: unknown) => {
        if (diagnoseRedisError(error)?.kind === 'unreachable') throw error;
      });
      // a worker can take the job between these calls; the worker then reads the flag
      if (state === 'delayed') await job.promote().catch(ignoreUnlessRedisFailed);
      if (state !== 'active') await job.changePriority({ priority: 0, lifo: true }).catch(ignoreUnlessRedisFailed);
      return true;
    }, 'misleading');
  }

  /**
   * Retries failed jobs, each with all its attempts again. Jobs that cannot be retried are refused, and do not change: jobs
   * that are not failed or not there, and jobs whose image was added again meanwhile.
   * @returns an outcome for each job, in the order of the IDs
   * @throws QueueUnavailableError. In this case some of the jobs can be retried
   */
  async retry(jobIds: readonly string[]): Promise<RetryOutcome[]> {
    const outcomes: RetryOutcome[] = [];
    const claimed = new Map<string, string>();
    for (let from = 0; from < jobIds.length; from += RETRIED_AT_ONCE) {
      const some = jobIds.slice(from, from + RETRIED_AT_ONCE);
      outcomes.push(...(await this.#write(() => retryJobs(this.#queue, this.#redis, some, claimed), 'misleading')));
    }
    return outcomes;
  }

  /**
   * The IDs of the failed jobs that are kept (UNPACK_KEEP_FAILED), oldest first.
   * @param since milliseconds since 1970: when they failed, at the earliest @throws QueueUnavailableError
   */
  async failed(code: FailureCode, since = 0): Promise<string[]> {
    return this.#call(async () => {
      const found: string[] = [];
      for await (const jobs of failedJobs(this.#queue, this.#redis, since, Date.now()))
        found.push(...jobs.filter((job) => job.code === code).map(({ id }) => id));
      return found;
    });
  }

  /** @throws JobNotFoundError, UnreadableJobError, QueueUnavailableError */
  async status(jobId: string): Promise<JobStatus> {
    return this.#call(async () => {
      // the state is read first: a job that finishes between the two reads is reported as not finished, and never as finished
      // without a result
      const state = await this.#queue.getJobState(jobId);
      const job = await this.#job(jobId);
      const flag = await this.#redis.exists(cancelKey(this.#queue, jobId));
      const place = await jobPlace(this.#queue, this.#redis, jobId, state);
      return statusOf(job, state, flag === 1, place);
    });
  }

  /** The number of jobs in each state. @throws QueueUnavailableError */
  async counts(): Promise<JobCounts> {
    return this.#call(() => jobCounts(this.#queue));
  }

  /** Counts, the oldest job, the workers, and the failures of the last hour. @throws QueueUnavailableError */
  async overview(): Promise<QueueOverview> {
    return this.#call(() => queueOverview(this.#queue, this.#redis));
  }

  /** Closes the connections. Waiting calls fail. A second call does nothing. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#waiter?.close();
    await this.#queue.close().catch(() => {});
    this.#redis.disconnect();
  }

  async #job(jobId: string): Promise<Job> {
    const job = await this.#queue.getJob(jobId).catch((error: unknown) => {
      // BullMQ parses every field as JSON
      if (error instanceof SyntaxError) throw new UnreadableJobError(unreadableJob(jobId));
      // BullMQ keeps its lists beside the jobs, so an ID such as `wait` leads to one
      throw error instanceof Error && error.message.startsWith('WRONGTYPE') ? new JobNotFoundError(jobId) : error;
    });
    // a hash that is no job, such as `meta`, has no time
    if (job === undefined || Number.isNaN(job.timestamp)) throw new JobNotFoundError(jobId);
    return job;
  }

  /** As `#call`, for work that writes: it succeeds when enough replicas have what was written (UNPACK_REDIS_REPLICAS). */
  async #write<T>(work: () => Promise<T>, twice: Twice): Promise<T> {
    const { UNPACK_REDIS_REPLICAS: wanted = 0 } = this.#settings;
    if (wanted === 0) return this.#call(work, twice);
    return this.#call(async () => {
      const { stream } = this.#redis;
      this.#writing++;
      try {
        const value = await work();
        await this.#replicated(wanted, stream);
        return value;
      } finally {
        this.#writing--;
      }
    }, twice);
  }

  /**
   * Waits until `wanted` replicas have all that this connection has written (redis.io, WAIT).
   * @param stream the connection that has written; another one knows nothing of these writes
   * @throws QueueUnavailableError; the connection then looks for the primary again, because this one may be cut off
   */
  async #replicated(wanted: number, stream: Redis['stream']): Promise<void> {
    // WAIT takes an integer, and 0 means without a limit
    const limit = Math.max(1, Math.floor(Math.min(REPLICATION_LIMIT, this.#timeout / 2)));
    const confirmed = await this.#redis.wait(wanted, limit);
    if (this.#redis.stream !== stream) throw new Error(LOST);
    if (confirmed >= wanted) return;
    // other calls on this connection would fail with it
    if (this.#writing === 1) this.#redis.disconnect(true);
    throw unavailable(
      this.#settings,
      `has not confirmed the change: ${confirmed} of ${wanted} replicas (UNPACK_REDIS_REPLICAS) have it after ${durationText(limit)}; start the missing replicas, and call again`,
    );
  }

  /** Runs `work` when Redis is connected, with the queue's time limit. */
  async #call<T>(work: () => Promise<T>, twice: Twice = 'harmless'): Promise<T> {
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
      return await Promise.race([this.#accepted(work, deadline, twice), late]);
    } catch (error) {
      throw this.#explained(error);
    } finally {
      timer.abort();
    }
  }

  /**
   * Repeats a call within its time limit if a failover refuses it, because a refused command has had no effect. If the connection
   * is lost, or replicas do not confirm, it repeats only a call that can have an effect twice without harm.
   */
  async #accepted<T>(work: () => Promise<T>, deadline: number, twice: Twice): Promise<T> {
    while (true) {
      try {
        return await work();
      } catch (error) {
        const refused = hasFailover(this.#settings) && isRefusedInFailover(error);
        // `#replicated` throws the first one, after it has left the primary
        const unconfirmed = error instanceof QueueUnavailableError;
        const lost = unconfirmed || diagnoseRedisError(error)?.kind === 'unreachable';
        const again = refused || (lost && twice === 'harmless');
        const needed = REPEAT_PAUSE + (unconfirmed ? REPLICATION_LIMIT : 0);
        if (Date.now() + needed >= deadline || !again) throw error;
      }
      await sleep(REPEAT_PAUSE);
      await this.#connected(deadline);
    }
  }

  /** Converts an error of Redis to a QueueUnavailableError; other errors stay. */
  #explained(error: unknown): unknown {
    const diagnosis = diagnoseRedisError(error, errorSource(this.#settings));
    return diagnosis === undefined ? error : unavailable(this.#settings, diagnosis.sentence, error);
  }

  /** Waits for a connection before anything is sent, so that a failed call has no effect later. */
  async #connected(deadline: number): Promise<void> {
    while (true) {
      const diagnosis = diagnoseRedisError(this.#last);
      // waiting cannot correct a setting
      if (diagnosis?.kind === 'misconfigured') throw unavailable(this.#settings, diagnosis.sentence, this.#last);
      if (this.#redis.status === 'ready') return;
      if (Date.now() >= deadline || this.#redis.status === 'end') throw await this.#whyNotConnected();
      await sleep(20);
    }
  }

  async #whyNotConnected(): Promise<QueueUnavailableError> {
    const asked = this.#redis.status === 'connect' ? await whyNotReady(this.#redis) : undefined;
    const diagnosis = asked ?? diagnoseRedisError(this.#last);
    const found =
      diagnosis !== undefined && diagnosis.kind !== 'unreachable' ? undefined : await probeRedis(this.#settings);
    return unavailable(
      this.#settings,
      (found ?? diagnosis)?.sentence ?? 'is not available: it cannot be reached',
      this.#last,
    );
  }
}

function jobOptions(
  payload: Payload,
  { priority, attempts, delay, deduplicate = true, trace }: AddOptions,
): JobsOptions & { jobId: string } {
  return {
    // the ID is made here: if BullMQ returns another ID, a job for the same work existed
    jobId: randomUUID(),
    ...(priority === undefined ? {} : { priority }),
    ...(attempts === undefined ? {} : { attempts }),
    ...(delay === undefined ? {} : { delay }),
    // as BullMQ's clients write it for OpenTelemetry
    ...(trace === undefined ? {} : { telemetry: { metadata: JSON.stringify(trace) } }),
    ...(deduplicate ? { deduplication: { id: deduplicationId(payload) } } : {}),
  };
}

/** Ignores the error of a job that is not in its list any more: a worker has taken the job and reads the flag. */
function ignoreUnlessRedisFailed(error: unknown): void {
  if (diagnoseRedisError(error) !== undefined) throw error;
}
