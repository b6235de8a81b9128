import { freeingText } from '../errno.ts';
import { toUnpackError, UnpackError } from '../errors.ts';
import type { Snapshotter } from './snapshotter.ts';

/** The calls of a store that run, for SnapshotStore: `end` stops them, and no call begins after it. */
export class Calls {
  readonly #root: string;
  readonly #collectedBy: Snapshotter['collectedBy'];
  readonly #running = new Set<Promise<unknown>>();
  readonly #stop = new AbortController();

  constructor(root: string, collectedBy: Snapshotter['collectedBy']) {
    this.#root = root;
    this.#collectedBy = collectedBy;
  }

  /** Aborted by `end`. For the parts of a call that take long. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** @throws UnpackError SHUTTING_DOWN after `end`; as the call. A failure of the disk or the machine names the store */
  async run<T>(call: () => Promise<T>): Promise<T> {
    if (this.#stop.signal.aborted) {
      throw new UnpackError('SHUTTING_DOWN', `the snapshot store ${this.#root} is closed`);
    }
    const running = call();
    this.#running.add(running);
    try {
      return await running;
    } catch (error) {
      throw this.#located(error);
    } finally {
      this.#running.delete(running);
    }
  }

  /** Stops all calls, and waits until they have ended. */
  async end(): Promise<void> {
    this.#stop.abort(new UnpackError('SHUTTING_DOWN', `the snapshot store ${this.#root} was closed during the call`));
    await Promise.allSettled(this.#running);
  }

  /** A failure of the disk or the machine, as an UnpackError that names the store. Other errors are returned unchanged. */
  #located(error: unknown): unknown {
    if (error instanceof UnpackError) return error;
    const failure = toUnpackError(error);
    if (failure.code === 'INTERNAL') return error;
    const isFull = failure.code === 'STORE_FULL';
    return failure.with({}, `the store ${this.#root}: `, isFull ? freeingText(this.#collectedBy) : '');
  }
}
