import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Queue, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Config } from '../config.ts';
import { UnpackError } from '../errors.ts';
import type { Unpacker } from '../image/unpack.ts';
import { CancelFlags } from './cancel-flags.ts';
import { cancelChannel, cancelledError, cancelReasons } from './cancellation.ts';
import { logOutages, patientConnection } from './connection.ts';
import type { Logger } from './log.ts';
import type { SourcePolicy } from './parse.ts';
import { createProcessor, type ProcessorSettings } from './processor.ts';
import type { WorkerFacts } from './result.ts';
import { LockLostError, RunningJobs } from './running-jobs.ts';
import { durationText } from './text.ts';
import { type BullSettings, bullQueueOptions, bullWorkerOptions } from './worker-options.ts';

export type WorkerSettings = BullSettings & ProcessorSettings & Pick<Config, 'UNPACK_GRACE'>;

export interface WorkerParts {
  readonly settings: WorkerSettings;
  readonly unpacker: Unpacker;
  readonly policy: SourcePolicy;
  readonly store: WorkerFacts['store'];
  readonly log: Logger;
}

/** Milliseconds between two looks at the cancel flags, for messages that got lost with a connection. */
const CANCEL_POLL = 2000;
/** Milliseconds that giving jobs back and closing may take after the grace time: less than what supervisors add. */
const LAST_RESORT = 4000;
/**
 * Takes jobs from the queue and unpacks them, UNPACK_JOBS at a time.
 *
 * Its life: *made* (nothing happens yet) → `start` → *running*: takes jobs, waits for Redis when it is away → `close` →
 * *closing*: takes nothing new, lets jobs finish for UNPACK_GRACE, then stops them and gives them back → *closed*.
 */
export class UnpackWorker {
  readonly #settings: WorkerSettings;
  readonly #log: Logger;
  readonly #running = new RunningJobs();
  readonly #redis: Redis;
  readonly #queue: Queue;
  readonly #worker: Worker;
  readonly #cancelFlags: CancelFlags;
  readonly #cancelRequests: Redis;
  #cancelTimer: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;

  constructor({ settings, unpacker, policy, store, log }: WorkerParts) {
    this.#settings = settings;
    this.#log = log;
    this.#redis = patientConnection(settings);
    const onError = logOutages(this.#redis, settings.REDIS_URL, log);
    this.#queue = new Queue(settings.UNPACK_QUEUE, bullQueueOptions(settings, this.#redis));
    // a connection that has subscribed to a channel can do nothing else
    this.#cancelRequests = this.#redis.duplicate({ lazyConnect: true });
    this.#cancelFlags = new CancelFlags(this.#redis, this.#queue);
    const processor = createProcessor({
      unpacker,
      settings,
      policy,
      facts: { worker: { name: settings.UNPACK_WORKER_NAME, host: hostname() }, store },
      running: this.#running,
      cancelFlags: this.#cancelFlags,
      log,
    });
    this.#worker = new Worker(settings.UNPACK_QUEUE, processor, bullWorkerOptions(settings, this.#redis));
    this.#worker.on('lockRenewalFailed', (ids) => {
      for (const id of ids) this.#running.abort(id, new LockLostError(`the lock on job ${id} is lost`));
    });
    const parts: NodeJS.EventEmitter[] = [this.#queue, this.#cancelRequests, this.#worker];
    for (const part of parts) part.on('error', onError);
  }

  /** Begins to take jobs; resolves when Redis has answered for the first time, however long that takes. */
  async start(): Promise<void> {
    this.#cancelRequests.on('message', (_channel, jobId) => {
      this.#cancelFlags.forget(jobId);
      void this.#stopCancelled([jobId]);
    });
    this.#cancelRequests.subscribe(cancelChannel(this.#queue)).catch((error: unknown) => this.#failed(error));
    this.#cancelTimer = setInterval(() => void this.#stopCancelled(this.#running.ids), CANCEL_POLL);
    await Promise.all([this.#queue.waitUntilReady(), this.#worker.waitUntilReady()]);
    if (this.#closing !== undefined) return;
    this.#worker.run().catch((error: unknown) => this.#failed(error));
  }

  /** Whether Redis answers within `timeout` milliseconds. */
  async isReady(timeout: number): Promise<boolean> {
    if (this.#closing !== undefined || this.#redis.status !== 'ready') return false;
    const answer = this.#redis.ping().then(
      () => true,
      () => false,
    );
    return Promise.race([answer, sleep(timeout, false, { ref: false })]);
  }

  /**
   * Lets running jobs finish for UNPACK_GRACE and gives the rest back, without counting the attempt. Never takes more
   * than four seconds longer: a job that can't be given back stalls, and another worker takes it over.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { UNPACK_GRACE: grace } = this.#settings;
    const jobs = this.#running.size;
    if (jobs > 0)
      this.#log.info({ jobs }, `taking no more jobs; ${jobs} running, which have ${durationText(grace)} to finish`);
    const closed = this.#worker.close().then(
      () => true,
      () => true,
    );
    const giveBack = setTimeout(() => {
      const reason = `the worker shuts down and the job did not finish within ${durationText(grace)} (UNPACK_GRACE)`;
      this.#running.abortAll(new UnpackError('SHUTTING_DOWN', reason));
    }, grace);
    const inTime = await Promise.race([closed, sleep(grace + LAST_RESORT, false, { ref: false })]);
    clearTimeout(giveBack);
    clearInterval(this.#cancelTimer);
    if (!inTime) {
      this.#log.warn({ jobs: this.#running.ids }, 'not everything could be given back; what is left stalls');
      void this.#worker.disconnect().catch(() => {});
    }
    // politeness towards a Redis that may be gone has its limits
    await Promise.race([this.#queue.close().catch(() => {}), sleep(500, undefined, { ref: false })]);
    this.#cancelRequests.disconnect();
    this.#redis.disconnect();
  }

  async #stopCancelled(ids: readonly string[]): Promise<void> {
    const mine = ids.filter((id) => this.#running.has(id));
    if (mine.length === 0 || this.#redis.status !== 'ready') return;
    try {
      const reasons = await cancelReasons(this.#redis, this.#queue, mine);
      for (const [index, id] of mine.entries()) {
        const reason = reasons[index];
        if (typeof reason === 'string') this.#running.abort(id, cancelledError(reason));
      }
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error: unknown): void {
    this.#worker.emit('error', error instanceof Error ? error : new Error(String(error)));
  }
}
