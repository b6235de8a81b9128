import { extname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { abortError, toUnpackError, UnpackError } from '../errors.ts';
import type { LentSpec, SignatureRefusal } from '../source/source-spec.ts';
import type { AppliedDiff, ApplyProgress } from './applier.ts';
import type { ApplyMessage, ApplyReport, ApplyTask } from './apply-task.ts';

/** Milliseconds that a thread is waited for that has been asked to end. */
const END_LIMIT = 5000;

/** What the running task's caller waits for. */
interface Caller {
  readonly resolve: (diff: AppliedDiff) => void;
  readonly reject: (error: unknown) => void;
  readonly onProgress: ((progress: ApplyProgress) => void) | undefined;
  readonly renew: Renew;
}

/** Gets another permission for the blob that was lent. @throws UnpackError */
type Renew = (refused: SignatureRefusal) => Promise<LentSpec>;

/**
 * A thread that applies layers, one after the other (workers/apply.ts). It starts when it is made and is ready after some
 * 50 ms: whoever will need one soon makes it before there is a task. A thread without a task does not keep the process.
 */
export class ApplyThread {
  readonly #worker: Worker;
  /** Not 0 when there is a message to be looked at within a task: a thread in the middle of a write takes none by itself. */
  readonly #urgent = new Int32Array(new SharedArrayBuffer(4));
  #caller: Caller | undefined;
  /** Why it takes no more tasks. */
  #ended: unknown;

  /** @throws UnpackError STORE_FAILED where the machine has no more threads */
  constructor() {
    // run from source and built, the thread's file lies beside in the same form
    const name = `apply${extname(import.meta.filename)}`;
    try {
      this.#worker = new Worker(join(import.meta.dirname, '../../workers', name), { workerData: this.#urgent });
    } catch (error) {
      throw lossOf(error);
    }
    this.#worker.unref();
    this.#worker.on('message', (report: ApplyReport) => this.#take(report));
    this.#worker.on('error', (error) => this.#lose(lossOf(error)));
    this.#worker.on('exit', () => this.#lose(new Error('the apply thread was ended')));
  }

  /** Whether it can take a task, now or after the one that it has. */
  get alive(): boolean {
    return this.#ended === undefined;
  }

  /**
   * Applies one layer; not before the last one has come to its end.
   * @throws UnpackError as applyBlob; Error when the thread has ended
   */
  async run(
    task: ApplyTask,
    { signal, onProgress, renew }: { readonly signal: AbortSignal | undefined } & Pick<Caller, 'onProgress' | 'renew'>,
  ): Promise<AppliedDiff> {
    const { promise, resolve, reject } = Promise.withResolvers<AppliedDiff>();
    const abort = (): void => {
      if (signal !== undefined) this.#tell({ abort: abortError(signal).serialize() });
    };
    if (this.#ended !== undefined) throw this.#ended;
    this.#caller = { resolve, reject, onProgress, renew };
    this.#worker.ref();
    this.#tell({ task });
    // the thread reads its messages in order: an abort never reaches the task after the one that it is meant for
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      return await promise;
    } finally {
      signal?.removeEventListener('abort', abort);
      this.#worker.unref();
    }
  }

  /**
   * Ends the thread at its next turn; a task that it has fails. It is asked and not stopped from outside: a thread that is
   * stopped inside a native call takes the whole process with it (Node-API: an addon's exception can't be thrown any more).
   * One that does not answer is left to the end of the process after 5 s.
   */
  async end(): Promise<void> {
    if (this.#ended !== undefined) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#worker.once('exit', () => resolve());
    this.#worker.ref();
    this.#tell({ end: true });
    const limit = setTimeout(resolve, END_LIMIT);
    await promise;
    clearTimeout(limit);
    this.#worker.unref();
  }

  #tell(message: ApplyMessage): void {
    this.#worker.postMessage(message);
    if (!('task' in message)) Atomics.store(this.#urgent, 0, 1);
  }

  #take(report: ApplyReport): void {
    if ('progress' in report) {
      this.#caller?.onProgress?.(report.progress);
      return;
    }
    const caller = this.#caller;
    if ('refused' in report) {
      if (caller !== undefined) void this.#renew(caller, report.refused);
      return;
    }
    this.#caller = undefined;
    const { outcome } = report;
    if ('error' in outcome) caller?.reject(UnpackError.deserialize(outcome.error));
    else caller?.resolve(outcome.diff);
  }

  async #renew(caller: Caller, refused: SignatureRefusal): Promise<void> {
    let renewed: Extract<ApplyMessage, { renewed: unknown }>['renewed'];
    try {
      const spec = await caller.renew(refused);
      if (spec.kind !== 'http-blob') throw new TypeError('only URLs can be refused');
      renewed = { spec };
    } catch (error) {
      renewed = { error: toUnpackError(error).serialize() };
    }
    // not to the task after the one that has asked
    if (this.#caller === caller) this.#tell({ renewed });
  }

  #lose(error: unknown): void {
    this.#ended ??= error;
    this.#caller?.reject(error);
    this.#caller = undefined;
  }
}

/** Where a thread could not begin, the machine is to blame; it says which of its limits it was. */
function lossOf(error: unknown): unknown {
  if (!(error instanceof Error) || !('code' in error) || error.code !== 'ERR_WORKER_INIT_FAILED') return error;
  return new UnpackError(
    'STORE_FAILED',
    `an apply thread does not start (${error.message}); raise the limits of this process (ulimit -n and -u, LimitNOFILE, TasksMax), or lower UNPACK_THREADS`,
    { cause: error },
  );
}
