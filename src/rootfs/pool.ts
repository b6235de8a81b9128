import { diffTarget, type StoreTraits } from '../diff/target.ts';
import { abortError, throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Mount } from '../snapshots/snapshotter.ts';
import type { BlobSource } from '../source/blob-source.ts';
import type { AppliedDiff, Applier, ApplyOptions, ApplySettings } from './applier.ts';
import { ApplyThread } from './apply-thread.ts';

/** An idle thread exits after this number of milliseconds. Until then it keeps its connections. */
const IDLE_TIMEOUT = 60_000;

export interface ApplyPoolOptions {
  /** Whether the threads are started now and kept, so that no job waits for a thread to start. */
  readonly resident?: boolean | undefined;
  /** A thread that is already running; the pool owns it from now on. */
  readonly started?: ApplyThread | undefined;
}

/** What the threads of a process do now, in numbers of threads and layers. */
export interface ThreadUse {
  readonly threads: number;
  readonly writing: number;
  readonly waiting: number;
  /** Requests for layers that continued or repeated a failed one, since the pool was made. */
  readonly resumes: number;
}

/** The pool of apply threads, which the layers of all images of this process share. */
export class ApplyPool {
  readonly #settings: ApplySettings;
  readonly #slots: Slots;
  readonly #resident: boolean;
  readonly #threads = new Set<ApplyThread>();
  /** Threads without a task, each with the timer that stops it. The thread that was used last is taken first. */
  readonly #idle: { readonly thread: ApplyThread; readonly end: NodeJS.Timeout | undefined }[] = [];
  /** Number of layers that are being written; the threads read it to know whether a core is free. */
  readonly #writing = new Int32Array(new SharedArrayBuffer(4));
  readonly #resumes = new Int32Array(new SharedArrayBuffer(4));
  /** Number of appliers made so far. It is the place of the next applier in the queue. */
  #appliers = 0;
  #closed = false;

  /** @param threads maximum number of layers that are written at the same time */
  constructor(threads: number, settings: ApplySettings, { resident = false, started }: ApplyPoolOptions = {}) {
    this.#settings = settings;
    this.#slots = new Slots(threads);
    this.#resident = resident;
    if (started !== undefined) this.#release(this.#own(started));
    while (resident && this.#threads.size < threads) this.#release(this.#own(new ApplyThread()));
  }

  /** How many threads there can be, how many write a layer, and how many layers wait for one. */
  get use(): ThreadUse {
    return { ...this.#slots.use, resumes: Atomics.load(this.#resumes, 0) >>> 0 };
  }

  /**
   * An applier of blobs from one source to one store, for one job. Its layers get a thread before the layers of appliers
   * that are made later.
   */
  applier(source: BlobSource, store: StoreTraits): Applier {
    const place = this.#appliers++;
    return {
      apply: (blob, mounts, options) =>
        this.#slots.run({ place, weight: blob.size }, options.signal, () =>
          this.#apply(source, store, blob, mounts, options),
        ),
    };
  }

  /** Ends the threads. The layers that they are writing fail. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const { end } of this.#idle.splice(0)) clearTimeout(end);
    await Promise.all([...this.#threads].map((thread) => thread.end()));
  }

  async #apply(
    source: BlobSource,
    store: StoreTraits,
    blob: Descriptor,
    mounts: readonly Mount[],
    { signal, onProgress, diffId, below, findings, key }: ApplyOptions,
  ): Promise<AppliedDiff> {
    if (this.#closed) throw new UnpackError('SHUTTING_DOWN', 'the apply threads were stopped before the layer began');
    const target = diffTarget(mounts, below, store, key);
    const thread = this.#take();
    Atomics.add(this.#writing, 0, 1);
    try {
      const task = {
        source: await source.grant(blob),
        layer: { blob, diffId, target, findings },
        settings: this.#settings,
        writing: this.#writing,
        resumes: this.#resumes,
      };
      return await thread.run(task, { signal, onProgress, renew: (refused) => source.grant(blob, refused) });
    } catch (error) {
      throw toUnpackError(error);
    } finally {
      Atomics.sub(this.#writing, 0, 1);
      this.#release(thread);
    }
  }

  /** An idle thread, or a new one. The caller holds a slot, so there are never more threads than slots. */
  #take(): ApplyThread {
    const { thread, end } = this.#idle.pop() ?? { thread: this.#own(new ApplyThread()), end: undefined };
    clearTimeout(end);
    if (thread.alive) return thread;
    this.#threads.delete(thread);
    return this.#take();
  }

  #own(thread: ApplyThread): ApplyThread {
    this.#threads.add(thread);
    return thread;
  }

  #release(thread: ApplyThread): void {
    if (!thread.alive || this.#closed) {
      this.#threads.delete(thread);
      return;
    }
    const retire = (): void => {
      const place = this.#idle.findIndex((idle) => idle.thread === thread);
      this.#idle.splice(place, 1);
      this.#threads.delete(thread);
      void thread.end();
    };
    this.#idle.push({ thread, end: this.#resident ? undefined : setTimeout(retire, IDLE_TIMEOUT).unref() });
  }
}

/** What decides which of the waiting layers starts next. */
interface Turn {
  /** The job's place in the queue. The lower place goes first, whatever the weight. */
  readonly place: number;
  /** Within one place the heaviest goes first, because the longest layer of a job must not start last. */
  readonly weight: number;
}

interface Waiter extends Turn {
  readonly start: () => void;
}

/**
 * A semaphore with a queue. Jobs are served in the order in which they came, each with all its layers: a small layer waits
 * for earlier jobs only.
 */
export class Slots {
  private readonly count: number;
  private free: number;
  private readonly waiting: Waiter[] = [];

  constructor(count: number) {
    this.count = count;
    this.free = count;
  }

  get use(): Omit<ThreadUse, 'resumes'> {
    return { threads: this.count, writing: this.count - this.free, waiting: this.waiting.length };
  }

  /**
   * Runs `work` once a slot is free.
   * @throws UnpackError the signal's reason, if it is aborted while `work` waits
   */
  async run<T>(turn: Turn, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    throwIfAborted(signal);
    if (this.free > 0) this.free--;
    else await this.wait(turn, signal);
    try {
      return await work();
    } finally {
      const next = this.waiting.shift();
      if (next === undefined) this.free++;
      else next.start();
    }
  }

  private wait({ place, weight }: Turn, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = (): void => {
        this.waiting.splice(this.waiting.indexOf(waiter), 1);
        if (signal !== undefined) reject(abortError(signal));
      };
      const start = (): void => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      const waiter: Waiter = { place, weight, start };
      const before = this.waiting.findLastIndex((other) => goesFirst(other, waiter));
      this.waiting.splice(before + 1, 0, waiter);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }
}

/** Equal turns go in the order in which they came. */
function goesFirst(waiting: Turn, later: Turn): boolean {
  return waiting.place === later.place ? waiting.weight >= later.weight : waiting.place < later.place;
}
