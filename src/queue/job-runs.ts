import { type Job, Worker } from 'bullmq';
import type { UnpackError } from '../errors.ts';
import type { HeldElsewhere } from './parked-jobs.ts';

/** The lock on a job is gone, so the job belongs to another worker by now, or will soon. */
export class LockLostError extends Error {
  override readonly name = 'LockLostError';
}

/** One run of a job in this process, and the switch that stops it. */
export class JobRun {
  readonly id: string;
  /** The token of BullMQ's lock on the job: each run has its own. */
  readonly token: string | undefined;
  readonly #controller = new AbortController();

  constructor(id: string, token: string | undefined) {
    this.id = id;
    this.token = token;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The first reason stays. */
  abort(reason: UnpackError | LockLostError | HeldElsewhere): void {
    this.#controller.abort(reason);
  }
}

/**
 * The runs of jobs in this process. A job can have two at once: one that lost its lock and still unwinds, and a later one.
 * So a run is stopped by itself or by its lock's token, and never by the job's ID: what was meant for the earlier one must
 * not reach the later one.
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

  /** Those that there are now, of these jobs, or of all. */
  runs(ids?: readonly string[]): JobRun[] {
    const all = [...this.#runs];
    return ids === undefined ? all : all.filter(({ id }) => ids.includes(id));
  }

  /** Once all jobs have been stopped by `abortAll`, a job that still comes in starts out aborted. */
  add(id: string, token: string | undefined): JobRun {
    const run = new JobRun(id, token);
    this.#runs.add(run);
    if (this.#closed !== undefined) run.abort(this.#closed);
    return run;
  }

  remove(run: JobRun): void {
    this.#runs.delete(run);
  }

  /** The run that had this lock on the job has lost it. */
  lost(id: string, token: string | undefined): void {
    for (const run of this.#runs) {
      if (run.id === id && run.token === token) run.abort(new LockLostError(`the lock on job ${id} is lost`));
    }
  }

  abortAll(reason: UnpackError): void {
    this.#closed = reason;
    for (const run of this.#runs) run.abort(reason);
  }
}

/**
 * BullMQ's worker, which knows the locks that it renews by the job's ID alone. A job whose lock was lost can come back to
 * this worker while its first run still unwinds; these two things then must not get mixed up:
 *
 * - which run has lost its lock: BullMQ's event `lockRenewalFailed` names the job only, and may come when a later run has it
 * - whose lock is renewed: when the first run ends, BullMQ stops to renew the lock of the later one too
 *
 * So each run is told apart by its lock's token.
 */
export class BullWorker extends Worker {
  /** Called with a job and the token by which its lock could not be renewed. */
  onLockLost: (id: string, token: string | undefined) => void = () => {};
  /** The newest run of each job. */
  readonly #newest = new Map<string, { readonly token: string; readonly taken: number | undefined }>();

  override async extendJobLocks(ids: string[], tokens: string[], duration: number): Promise<string[]> {
    const lost = await super.extendJobLocks(ids, tokens, duration);
    for (const id of lost) this.onLockLost(id, tokens[ids.indexOf(id)]);
    return lost;
  }

  override async processJob(...parameters: Parameters<Worker['processJob']>): ReturnType<Worker['processJob']> {
    const [{ id, processedOn }, token] = parameters as [Job, string];
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
