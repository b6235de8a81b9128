import { type Job, type JobsOptions, Worker } from 'bullmq';
import type { UnpackError } from '../errors.ts';
import type { LayerLocked } from './parked-jobs.ts';

/** The run has lost its lock on the job, so another worker takes the job. */
export class LockLostError extends Error {
  override readonly name = 'LockLostError';
}

/** One run of a job in this process, with the AbortController that stops it. */
export class JobRun {
  readonly id: string;
  /** The token of BullMQ's lock on the job. Each run has its own. */
  readonly token: string | undefined;
  readonly image: string | undefined;
  /** The start of the run in milliseconds since 1970. */
  readonly since = Date.now();
  /** `resolving` until the layers are known. */
  phase: 'resolving' | 'unpacking' = 'resolving';
  readonly #controller = new AbortController();

  constructor(id: string, token: string | undefined, image?: string) {
    this.id = id;
    this.token = token;
    this.image = image;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Aborts the run. Only the first reason counts. */
  abort(reason: UnpackError | LockLostError | LayerLocked): void {
    this.#controller.abort(reason);
  }
}

/**
 * The runs of jobs in this process. A job can have two runs at the same time: an earlier run that has lost its lock and is
 * still unwinding, and the current run. So a run is identified by the token of its lock and not by the ID of the job.
 */
export class RunningJobs {
  readonly #runs = new Set<JobRun>();
  #closed: UnpackError | undefined;

  get size(): number {
    return this.#runs.size;
  }

  get ids(): string[] {
    return [...new Set([...this.#runs].map(({ id }) => id))];
  }

  /** Whether `abortAll` has been called. */
  get isClosed(): boolean {
    return this.#closed !== undefined;
  }

  /** The current runs of these jobs, or of all jobs. */
  runs(ids?: readonly string[]): JobRun[] {
    const all = [...this.#runs];
    return ids === undefined ? all : all.filter(({ id }) => ids.includes(id));
  }

  /** Adds a run. After `abortAll` the new run is aborted at once. */
  add(id: string, token: string | undefined, image?: string): JobRun {
    const run = new JobRun(id, token, image);
    this.#runs.add(run);
    if (this.#closed !== undefined) run.abort(this.#closed);
    return run;
  }

  remove(run: JobRun): void {
    this.#runs.delete(run);
  }

  /** Aborts the run with this token, because it has lost its lock. */
  lost(id: string, token: string | undefined): void {
    for (const run of this.#runs) {
      if (run.id === id && run.token === token) run.abort(new LockLostError(`the lock on job ${id} is lost`));
    }
  }

  /** Aborts all runs, also those that are added later. */
  abortAll(reason: UnpackError): void {
    this.#closed = reason;
    for (const run of this.#runs) run.abort(reason);
  }
}

/**
 * Lets the settings of the worker decide how many finished jobs are kept. BullMQ would let a job keep itself and all others without
 * a limit (`removeOnComplete: false`), or remove those of other producers. A job may only ask to be removed itself.
 */
function ownKeepSettings(options: JobsOptions): void {
  for (const name of ['removeOnComplete', 'removeOnFail'] as const) {
    if (options[name] !== true && options[name] !== 0) delete options[name];
  }
}

/**
 * BullMQ's worker, extended for two runs of one job at the same time. BullMQ identifies a lock by the ID of the job. This class
 * corrects two faults that follow from it:
 *
 * - The event `lockRenewalFailed` has only the ID of the job, so its listener could abort the later run. `onLockLost` gets
 *   the token, too.
 * - When the first run settles, BullMQ stops renewing the lock of the later run.
 */
export class BullWorker extends Worker {
  /** Called with the job and the token of a lock that could not be renewed. */
  onLockLost: (id: string, token: string | undefined) => void = () => {};
  /** The newest run of each job. */
  readonly #newest = new Map<string, { readonly token: string; readonly taken: number | undefined }>();

  override async extendJobLocks(ids: string[], tokens: string[], duration: number): Promise<string[]> {
    const lost = await super.extendJobLocks(ids, tokens, duration);
    for (const id of lost) this.onLockLost(id, tokens[ids.indexOf(id)]);
    return lost;
  }

  override async processJob(...parameters: Parameters<Worker['processJob']>): ReturnType<Worker['processJob']> {
    const [{ id, processedOn, opts }, token] = parameters as [Job, string];
    ownKeepSettings(opts);
    if (id === undefined) return super.processJob(...parameters);
    const run = { token, taken: processedOn };
    this.#newest.set(id, run);
    try {
      return await super.processJob(...parameters);
    } finally {
      const newest = this.#newest.get(id);
      if (newest === run) this.#newest.delete(id);
      else if (newest !== undefined) this.lockManager.trackJob(id, newest.token, newest.taken ?? Date.now());
    }
  }
}
