import { constants, hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Config } from '../config.ts';
import { UnpackError } from '../errors.ts';
import type { StoreKeeper, Unpacker } from '../image/unpack.ts';
import type { ImageListing } from '../snapshots/images.ts';
import type { Disk } from '../system/space.ts';
import { durationText } from '../units.ts';
import { CancelFlags } from './cancel-flags.ts';
import { cancelChannel, cancelledError, cancelReasons } from './cancellation.ts';
import { gatherWrites, patientConnection } from './connection.ts';
import type { WorkerRecord } from './formats.ts';
import { Heartbeat, unlessSlow } from './heartbeat.ts';
import { ImagePublisher } from './image-publisher.ts';
import { BullWorker, RunningJobs } from './job-runs.ts';
import type { Logger } from './log.ts';
import { Outages, unavailable } from './outages.ts';
import { ParkedJobs } from './parked-jobs.ts';
import type { SourcePolicy } from './parse-payload.ts';
import { createProcessor, type ProcessorSettings } from './processor.ts';
import { diagnoseRedisError } from './redis-diagnosis.ts';
import type { WorkerFacts } from './result.ts';
import { StoreGuard } from './store-guard.ts';
import { after } from './time-limit.ts';
import type { WorkerObserver } from './worker-observer.ts';
import { type BullSettings, bullQueueOptions, bullWorkerOptions } from './worker-options.ts';
import { JOBS_SHOWN } from './worker-presence.ts';

export type WorkerSettings = BullSettings & ProcessorSettings & Pick<Config, 'UNPACK_GRACE' | 'UNPACK_LISTED_IMAGES'>;

export interface WorkerParts {
  readonly settings: WorkerSettings;
  readonly unpacker: Unpacker;
  /** Probes the store. If it is absent, the store counts as sound. */
  readonly keeper?: StoreKeeper | undefined;
  readonly policy: SourcePolicy;
  readonly store: WorkerFacts['store'];
  /** More facts for the record that readers of the queue see. */
  readonly presence?: PresenceFacts | undefined;
  readonly observer?: WorkerObserver | undefined;
  readonly log: Logger;
}

export interface PresenceFacts {
  /** The version of unpackd. */
  readonly program?: string | undefined;
  /** The identity of the store, if it is known. Workers with one identity share one store. */
  readonly storeIdentity: string | undefined;
  /** The space of the disk with the store. */
  readonly disk: () => Promise<Disk>;
  /** All images of the store, to list them for the board. */
  readonly images: () => Promise<readonly ImageListing[]>;
}

export interface WorkerState {
  /** Jobs that run. A job on the fast path is not counted. */
  readonly jobs: number;
  /** Maximum number of jobs at the same time. */
  readonly slots: number;
  /** `begun` counts the outages since the worker was made. */
  readonly outages: Readonly<Record<'redis' | 'store', { readonly isNow: boolean; readonly begun: number }>>;
}

/** Milliseconds between two reads of the cancel flags, because messages are lost if the connection breaks. */
const CANCEL_POLL = 2000;
/**
 * Time limit in milliseconds after the grace time, for giving jobs back and closing. Supervisors wait longer before they kill a
 * process.
 */
const CLOSE_LIMIT = 4000;
/** Time limit in milliseconds for reading the space of the disk for a heartbeat, because a disk can hang. */
const DISK_LIMIT = 1000;

/**
 * Takes jobs from the queue and unpacks their images, up to UNPACK_JOBS at the same time.
 *
 *     made → running     by `start`
 *     running → closing  by `close`
 *     closing → closed   when all jobs have finished or are given back
 *
 * A running worker takes jobs, except during an outage of Redis or of the store. A closing worker takes no jobs. It gives back
 * the jobs that still run after UNPACK_GRACE.
 */
export class UnpackWorker {
  readonly #settings: WorkerSettings;
  readonly #log: Logger;
  readonly #running = new RunningJobs();
  readonly #redis: Redis;
  readonly #queue: Queue;
  readonly #worker: BullWorker;
  readonly #guard: StoreGuard;
  readonly #parked: ParkedJobs;
  readonly #outages: Outages;
  readonly #cancelFlags: CancelFlags;
  readonly #heartbeat: Heartbeat;
  readonly #publisher: ImagePublisher | undefined;
  readonly #facts: WorkerFacts;
  readonly #program: string | undefined;
  readonly #storeIdentity: string | undefined;
  readonly #disk: () => Promise<Disk | undefined>;
  readonly #started = Date.now();
  readonly #cancelRequests: Redis;
  #cancelTimer: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;

  constructor({ settings, unpacker, keeper, policy, store, presence, observer, log }: WorkerParts) {
    this.#settings = settings;
    this.#log = log;
    this.#redis = patientConnection(settings);
    this.#queue = new Queue(settings.UNPACK_QUEUE, bullQueueOptions(settings, this.#redis));
    this.#outages = new Outages({
      redis: this.#redis,
      settings,
      log,
      meanwhile: 'running jobs continue, new jobs wait for Redis',
      key: this.#queue.toKey('unpackd-probe'),
    });
    // a separate connection, because a connection that has subscribed to a channel accepts no other commands
    this.#cancelRequests = this.#redis.duplicate({ lazyConnect: true });
    this.#cancelFlags = new CancelFlags(this.#redis, this.#queue);
    this.#parked = new ParkedJobs(this.#redis, this.#queue, this.#outages.record);
    this.#guard = new StoreGuard({ keeper, log, onChange: (canWrite) => this.#takeJobs(canWrite) });
    this.#facts = { worker: { name: settings.UNPACK_WORKER_NAME, host: hostname() }, store };
    this.#program = presence?.program;
    this.#storeIdentity = presence?.storeIdentity;
    this.#disk = presence === undefined ? async () => undefined : unlessSlow(presence.disk, DISK_LIMIT);
    const record = () => this.#record();
    this.#heartbeat = new Heartbeat({ redis: this.#redis, queue: this.#queue, record, onError: this.#outages.record });
    this.#publisher = this.#publisherOf(presence);
    const processor = createProcessor({
      unpacker,
      keeper,
      guard: this.#guard,
      isStopping: () => this.#closing !== undefined,
      parked: this.#parked,
      settings,
      policy,
      facts: this.#facts,
      running: this.#running,
      cancelFlags: this.#cancelFlags,
      gatherWrites: () => gatherWrites(this.#redis),
      observer,
      log,
    });
    this.#worker = new BullWorker(settings.UNPACK_QUEUE, processor, bullWorkerOptions(settings, this.#redis));
    this.#worker.onLockLost = (id, token) => this.#running.lost(id, token);
    if (observer !== undefined) this.#worker.on('stalled', () => observer.jobStalled?.());
    const parts: NodeJS.EventEmitter[] = [this.#queue, this.#cancelRequests, this.#worker];
    for (const part of parts) part.on('error', this.#outages.record);
  }

  /**
   * Starts to take jobs. Resolves after the first answer of Redis. There is no time limit.
   * @throws QueueUnavailableError if waiting cannot help: a wrong password, a cluster, missing permissions
   */
  async start(): Promise<void> {
    this.#cancelRequests.on('message', (_channel, jobId) => {
      this.#cancelFlags.forget(jobId);
      void this.#stopCancelled([jobId]);
    });
    this.#cancelRequests.subscribe(cancelChannel(this.#queue)).catch((error: unknown) => this.#failed(error));
    this.#cancelTimer = setInterval(() => void this.#stopCancelled(), CANCEL_POLL);
    const examined = this.#guard.examine(false);
    const ready = Promise.all([this.#queue.waitUntilReady(), this.#worker.waitUntilReady(), examined]);
    ready.catch(() => {});
    await Promise.race([ready, this.#outages.misconfigured]);
    await this.#testWrites();
    this.#outages.markWorking();
    if (this.#closing !== undefined) return;
    this.#parked.start();
    this.#heartbeat.start();
    this.#publisher?.start();
    // a paused worker does nothing until it is resumed
    this.#worker.run().catch((error: unknown) => this.#failed(error));
  }

  /** Tests what the queue does all the time: a script that writes two of its keys. The keys expire after a second. */
  async #testWrites(): Promise<void> {
    const keys = ['unpackd-probe', 'unpackd-probe-2'].map((name) => this.#queue.toKey(name));
    const script = "for _, key in ipairs(KEYS) do redis.call('SET', key, '', 'PX', 1000) end";
    try {
      await this.#redis.eval(script, keys.length, ...keys);
    } catch (error) {
      const diagnosis = diagnoseRedisError(error);
      if (diagnosis?.kind === 'misconfigured') throw unavailable(this.#settings, diagnosis.sentence, error);
      this.#outages.record(error);
    }
  }

  /** Whether jobs run. */
  get isBusy(): boolean {
    return this.#running.size > 0;
  }

  /** Why the store cannot be written, so that the worker takes no jobs; `undefined` if the store can be written. */
  get storeFault(): UnpackError | undefined {
    return this.#guard.fault;
  }

  /** What the worker does now, for metrics. */
  get state(): WorkerState {
    return {
      jobs: this.#running.size,
      slots: this.#settings.UNPACK_JOBS,
      outages: {
        redis: { isNow: this.#outages.diagnosis !== undefined, begun: this.#outages.begun },
        store: { isNow: this.#guard.fault !== undefined, begun: this.#guard.faults },
      },
    };
  }

  /** Why the worker takes no jobs; `undefined` if it takes jobs and Redis answers within `timeout` milliseconds. */
  async whyNotReady(timeout: number): Promise<string | undefined> {
    if (this.#closing !== undefined) return 'the worker shuts down';
    const { fault } = this.#guard;
    if (fault !== undefined) return `takes no jobs until the store can be written: ${fault.message}`;
    return this.#outages.whyNotReady(timeout);
  }

  /**
   * Lets running jobs finish for UNPACK_GRACE, and gives the others back without counting the attempt. Giving back takes at
   * most four seconds. A job that cannot be given back stalls, and another worker takes the job.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { UNPACK_GRACE: grace } = this.#settings;
    const jobs = this.#running.size;
    if (jobs > 0)
      this.#log.info({ jobs }, `takes no more jobs; ${jobs} running, with ${durationText(grace)} to finish`);
    const closed = this.#worker.close().then(
      () => true,
      () => true,
    );
    this.#guard.close();
    this.#heartbeat.beat();
    const stopGivingBack = after(grace, () => {
      const reason = `the worker shuts down and the job did not finish within ${durationText(grace)} (UNPACK_GRACE)`;
      this.#running.abortAll(new UnpackError('SHUTTING_DOWN', reason));
    });
    let stopWaiting = () => {};
    const late = new Promise<boolean>((resolve) => {
      stopWaiting = after(grace + CLOSE_LIMIT, () => resolve(false));
    });
    const inTime = await Promise.race([closed, late]);
    stopWaiting();
    stopGivingBack();
    clearInterval(this.#cancelTimer);
    this.#parked.close();
    this.#outages.close();
    if (!inTime) {
      this.#log.warn(
        { jobs: this.#running.ids },
        'some jobs could not be given back; they stall, and other workers take them',
      );
      void this.#worker.disconnect().catch(() => {});
    }
    // closing waits for Redis, and Redis possibly does not answer
    const stopped = Promise.all([this.#heartbeat.stop(), this.#publisher?.stop()]);
    const ended = stopped.then(() => this.#queue.close());
    await Promise.race([ended.catch(() => {}), sleep(500, undefined, { ref: false })]);
    this.#cancelRequests.disconnect();
    this.#redis.disconnect();
  }

  /** `undefined` if the images are not to be listed, or it is not known which workers share the store. */
  #publisherOf(presence: PresenceFacts | undefined): ImagePublisher | undefined {
    const most = this.#settings.UNPACK_LISTED_IMAGES;
    if (presence?.storeIdentity === undefined || most === 0) return undefined;
    const { worker, store } = this.#facts;
    return new ImagePublisher({
      redis: this.#redis,
      queue: this.#queue,
      store: presence.storeIdentity,
      record: { host: worker.host, ...store },
      images: presence.images,
      most,
      onError: this.#outages.record,
    });
  }

  /** What this worker does now, for the readers of the queue. */
  async #record(): Promise<WorkerRecord> {
    const { fault } = this.#guard;
    const { worker, store } = this.#facts;
    const disk = await this.#disk();
    const runs = this.#running.runs();
    return {
      version: 1,
      ...worker,
      pid: process.pid,
      ...(this.#program === undefined ? {} : { program: this.#program }),
      started: this.#started,
      state: this.#closing !== undefined ? 'closing' : fault !== undefined ? 'faulty' : 'ready',
      ...(fault === undefined ? {} : { problem: fault.message }),
      store: { ...store, ...(this.#storeIdentity === undefined ? {} : { identity: this.#storeIdentity }) },
      ...(disk === undefined ? {} : { disk }),
      slots: this.#settings.UNPACK_JOBS,
      lock: this.#settings.UNPACK_LOCK,
      running: runs.length,
      jobs: runs
        .slice(0, JOBS_SHOWN)
        .map(({ id, image, phase, since }) => ({ id, phase, since, ...(image === undefined ? {} : { image }) })),
    };
  }

  #takeJobs(yes: boolean): void {
    if (this.#closing !== undefined) return;
    this.#heartbeat.beat();
    // running jobs continue
    const changed = yes ? this.#worker.resume() : this.#worker.pause(true);
    changed.catch((error: unknown) => this.#failed(error));
  }

  /** Stops the current runs of cancelled jobs. Later runs read their flags themselves. */
  async #stopCancelled(ids?: readonly string[]): Promise<void> {
    const runs = this.#running.runs(ids);
    if (runs.length === 0 || this.#redis.status !== 'ready') return;
    try {
      const reasons = await cancelReasons(
        this.#redis,
        this.#queue,
        runs.map(({ id }) => id),
      );
      for (const [index, run] of runs.entries()) {
        const reason = reasons[index];
        if (typeof reason === 'string') run.abort(cancelledError(reason));
      }
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error: unknown): void {
    this.#worker.emit('error', error instanceof Error ? error : new Error(String(error)));
  }
}

/** A signal that the first SIGTERM or SIGINT aborts. The second one exits the process at once. */
export function stopSignal(log: Logger): AbortSignal {
  const stop = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(128 + constants.signals[name]);
      log.info({ signal: name }, `${name}: stopping; send the signal again to stop at once`);
      stop.abort();
    });
  }
  return stop.signal;
}
