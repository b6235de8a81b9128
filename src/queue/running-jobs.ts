import type { UnpackError } from '../errors.ts';

/** The lock on a job is gone, so the job belongs to another worker by now, or will soon. */
export class LockLostError extends Error {
  override readonly name = 'LockLostError';
}

/** The jobs that this process works on, each with the switch that stops it. */
export class RunningJobs {
  readonly #jobs = new Map<string, AbortController>();
  #closed: UnpackError | undefined;

  get size(): number {
    return this.#jobs.size;
  }

  get ids(): string[] {
    return [...this.#jobs.keys()];
  }

  /** Whether `abortAll` has been called. */
  get isClosed(): boolean {
    return this.#closed !== undefined;
  }

  has(id: string): boolean {
    return this.#jobs.has(id);
  }

  /** Once all jobs have been stopped by `abortAll`, a job that still comes in starts out aborted. */
  add(id: string): AbortSignal {
    const controller = new AbortController();
    this.#jobs.set(id, controller);
    if (this.#closed !== undefined) controller.abort(this.#closed);
    return controller.signal;
  }

  remove(id: string, signal: AbortSignal): void {
    // a job that was lost can have come back to this worker while its first run was still unwinding
    if (this.#jobs.get(id)?.signal === signal) this.#jobs.delete(id);
  }

  /** The first reason stays. */
  abort(id: string, reason: UnpackError | LockLostError): void {
    this.#jobs.get(id)?.abort(reason);
  }

  abortAll(reason: UnpackError): void {
    this.#closed = reason;
    for (const controller of this.#jobs.values()) controller.abort(reason);
  }
}
