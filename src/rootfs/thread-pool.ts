import type { LayerLimits } from '../archive/tar-reader.ts';
import { diffTarget, type StoreTraits } from '../diff/target.ts';
import { toUnpackError, UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Mount } from '../snapshots/snapshotter.ts';
import type { BlobSource } from '../source/blob-source.ts';
import type { AppliedDiff, Applier, ApplyOptions } from './applier.ts';
import { ApplyThread } from './apply-thread.ts';
import { Slots, type Turn } from './slots.ts';

/** Milliseconds that an idle thread is kept, with its connections. */
const IDLE_TIMEOUT = 60_000;

export interface ApplyPoolOptions {
  /** Call native decompressors directly; default: yes. */
  readonly native?: boolean;
  /** Start the threads now and keep them, so that no job waits for one. */
  readonly resident?: boolean;
  /** A thread that was started before; the pool takes it over. */
  readonly started?: ApplyThread | undefined;
}

/** The threads that layers are applied on; layers of all images share them. */
export class ApplyPool {
  readonly #slots: Slots;
  readonly #native: boolean;
  readonly #resident: boolean;
  readonly #threads = new Set<ApplyThread>();
  /** Those without a task, and what will end them; the one that worked last is taken first. */
  readonly #idle: { readonly thread: ApplyThread; readonly end: NodeJS.Timeout | undefined }[] = [];
  /** Layers being written, for the threads to see whether there is a core to spare. */
  readonly #writing = new Int32Array(new SharedArrayBuffer(4));
  /** How many appliers there were before: their layers go first. */
  #appliers = 0;
  #closed = false;

  /** @param threads layers that are written at once */
  constructor(threads: number, { native = true, resident = false, started }: ApplyPoolOptions = {}) {
    this.#slots = new Slots(threads);
    this.#native = native;
    this.#resident = resident;
    if (started !== undefined) this.#release(this.#own(started));
    while (resident && this.#threads.size < threads) this.#release(this.#own(new ApplyThread()));
  }

  /**
   * An applier of blobs from one source to one store, for one job: none of its layers waits for a layer of an applier that
   * was made later, unless a thread has that one already.
   */
  applier(source: BlobSource, limits: LayerLimits, store: StoreTraits): Applier {
    const place = this.#appliers++;
    return {
      apply: (blob, mounts, options) =>
        this.#apply(source, limits, store, { place, weight: blob.size }, blob, mounts, options),
    };
  }

  /** Ends the threads; layers that they have fail. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const { end } of this.#idle.splice(0)) clearTimeout(end);
    await Promise.all([...this.#threads].map((thread) => thread.end()));
  }

  #apply(
    source: BlobSource,
    limits: LayerLimits,
    store: StoreTraits,
    turn: Turn,
    blob: Descriptor,
    mounts: readonly Mount[],
    { signal, onProgress, diffId, below, findings }: ApplyOptions,
  ): Promise<AppliedDiff> {
    const target = diffTarget(mounts, below, store);
    return this.#slots.run(turn, signal, async () => {
      if (this.#closed) throw new UnpackError('SHUTTING_DOWN', 'the apply threads were ended before the layer began');
      const thread = this.#take();
      Atomics.add(this.#writing, 0, 1);
      try {
        const lent = await source.lend(blob);
        const task = {
          source: lent,
          blob,
          target,
          findings,
          diffId,
          limits,
          native: this.#native,
          writing: this.#writing,
        };
        return await thread.run(task, { signal, onProgress, renew: (refused) => source.lend(blob, refused) });
      } catch (error) {
        throw toUnpackError(error);
      } finally {
        Atomics.sub(this.#writing, 0, 1);
        this.#release(thread);
      }
    });
  }

  /** An idle thread or a new one; there is a slot for each, so there are never more than slots. */
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
