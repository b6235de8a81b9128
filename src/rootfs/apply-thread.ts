import { extname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { errnoOf } from '../errno.ts';
import { abortError, type SerializedUnpackError, toUnpackError, UnpackError } from '../errors.ts';
import type { BlobGrant, SignatureRefusal, SignedUrl } from '../source/source-spec.ts';
import type { AppliedDiff, ApplyProgress, ApplySettings } from './applier.ts';
import type { LayerTask } from './apply-blob.ts';

/** Time limit in milliseconds for the thread to exit after `end` was called. */
const END_LIMIT = 5000;

/** One layer for an apply thread. */
export interface ApplyTask {
  readonly source: BlobGrant;
  readonly layer: LayerTask;
  readonly settings: ApplySettings;
  /** The number of layers that this process is writing, in memory that all threads share. */
  readonly writing: Int32Array<SharedArrayBuffer>;
  /** The number of requests for layers that continued or repeated a failed one, in memory that all threads share. */
  readonly resumes: Int32Array<SharedArrayBuffer>;
}

/** Messages to an apply thread: start a task, read on with a new URL or signature, abort the task, exit. */
export type ApplyMessage =
  | { readonly task: ApplyTask }
  | { readonly renewed: { readonly spec: SignedUrl } | { readonly error: SerializedUnpackError } }
  | { readonly abort: SerializedUnpackError }
  | { readonly end: true };

/** Messages from an apply thread: progress, a request for a new URL or signature, and one outcome per task. */
export type ApplyReport =
  | { readonly progress: ApplyProgress }
  | { readonly refused: SignatureRefusal }
  | { readonly outcome: ApplyOutcome };

export type ApplyOutcome = { readonly diff: AppliedDiff } | { readonly error: SerializedUnpackError };

/** The pending call of `run`. */
interface Caller {
  readonly resolve: (diff: AppliedDiff) => void;
  readonly reject: (error: unknown) => void;
  readonly onProgress: ((progress: ApplyProgress) => void) | undefined;
  readonly renew: Renew;
}

/** Makes a new URL or signature for the blob after the server refused the last one. @throws UnpackError */
type Renew = (refused: SignatureRefusal) => Promise<BlobGrant>;

/**
 * The main thread's side of an apply thread (workers/apply.ts), which applies one layer at a time. The thread needs about
 * 50 ms to start, so create it before there is a task. A thread without a task does not keep the process alive.
 */
export class ApplyThread {
  readonly #worker: Worker;
  /**
   * Not 0 while a message is pending. The thread checks this value during a task, because a task blocks the event loop.
   */
  readonly #urgent = new Int32Array(new SharedArrayBuffer(4));
  #caller: Caller | undefined;
  /** The error with which the thread exited; `undefined` while the thread is alive. */
  #ended: unknown;

  /** @throws UnpackError STORE_FAILED if the machine cannot start another thread */
  constructor() {
    // .ts when run from source, .js or .cjs when built
    const name = `apply${extname(import.meta.filename)}`;
    try {
      this.#worker = new Worker(join(import.meta.dirname, '../../workers', name), { workerData: this.#urgent });
    } catch (error) {
      throw startError(error);
    }
    this.#worker.unref();
    this.#worker.on('message', (report: ApplyReport) => this.#receive(report));
    this.#worker.on('error', (error) => this.#fail(startError(error)));
    this.#worker.on('exit', () => this.#fail(new Error('the apply thread has exited')));
  }

  /** Whether the thread can run a task, now or after the current task. */
  get alive(): boolean {
    return this.#ended === undefined;
  }

  /**
   * Applies one layer. Call it only when the last call has settled.
   * @throws UnpackError as applyBlob; Error if the thread has exited
   */
  async run(
    task: ApplyTask,
    { signal, onProgress, renew }: { readonly signal: AbortSignal | undefined } & Pick<Caller, 'onProgress' | 'renew'>,
  ): Promise<AppliedDiff> {
    const { promise, resolve, reject } = Promise.withResolvers<AppliedDiff>();
    const abort = (): void => {
      if (signal !== undefined) this.#send({ abort: abortError(signal).serialize() });
    };
    if (this.#ended !== undefined) throw this.#ended;
    this.#caller = { resolve, reject, onProgress, renew };
    this.#worker.ref();
    this.#send({ task });
    // messages are read in order, so an abort cannot affect the next task
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
   * Asks the thread to exit; its current task fails. `terminate()` is not used, because during a native call it aborts
   * the whole process (Node-API: the addon's exception cannot be thrown any more). If the thread does not exit within 5
   * s, it runs until the process exits.
   */
  async end(): Promise<void> {
    if (this.#ended !== undefined) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#worker.once('exit', () => resolve());
    this.#worker.ref();
    this.#send({ end: true });
    const limit = setTimeout(resolve, END_LIMIT);
    await promise;
    clearTimeout(limit);
    this.#worker.unref();
  }

  #send(message: ApplyMessage): void {
    this.#worker.postMessage(message);
    if (!('task' in message)) Atomics.store(this.#urgent, 0, 1);
  }

  #receive(report: ApplyReport): void {
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
      if (spec.kind !== 'signed-url') throw new TypeError('only URLs can be refused');
      renewed = { spec };
    } catch (error) {
      renewed = { error: toUnpackError(error).serialize() };
    }
    // the task that sent the request has possibly finished
    if (this.#caller === caller) this.#send({ renewed });
  }

  #fail(error: unknown): void {
    this.#ended ??= error;
    this.#caller?.reject(error);
    this.#caller = undefined;
  }
}

/** The error for a thread that cannot start: STORE_FAILED, because a limit of the machine was reached. */
function startError(error: unknown): unknown {
  if (!(error instanceof Error) || errnoOf(error) !== 'ERR_WORKER_INIT_FAILED') return error;
  return new UnpackError(
    'STORE_FAILED',
    `an apply thread could not start (${error.message}); raise the limits of this process (ulimit -n and -u, LimitNOFILE, TasksMax), or lower UNPACK_THREADS`,
    { cause: error },
  );
}
