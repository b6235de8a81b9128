import { extname } from 'node:path';
import { MessageChannel } from 'node:worker_threads';
import { Piscina } from 'piscina';
import type { LayerLimits } from '../archive/limits.ts';
import { diffTarget, type StoreTraits } from '../diff/target.ts';
import { abortError, toUnpackError, UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Mount } from '../snapshots/snapshotter.ts';
import type { BlobSource } from '../source/blob-source.ts';
import type { AppliedDiff, Applier, ApplyOptions, ApplyProgress } from './applier.ts';
import type { ApplyMessage, ApplyOutcome, ApplyTask } from './apply-task.ts';
import { Slots } from './slots.ts';

/** Milliseconds that an idle thread is kept, with its connections. */
const IDLE_TIMEOUT = 60_000;

/** The threads that layers are applied on; layers of all images share them. */
export class ApplyPool {
  private readonly pool: Piscina<ApplyTask, ApplyOutcome>;
  private readonly slots: Slots;
  private readonly native: boolean;

  /**
   * @param threads layers that are written at once
   * @param options.native call native decompressors directly; default: yes
   * @param options.resident start the threads now and keep them, so that no job waits a quarter of a second for one
   */
  constructor(threads: number, options: { readonly native?: boolean; readonly resident?: boolean } = {}) {
    this.native = options.native ?? true;
    this.slots = new Slots(threads);
    // run from source and built, the thread's file lies beside in the same form
    const filename = new URL(`../../workers/apply${extname(import.meta.url)}`, import.meta.url).href;
    this.pool = new Piscina({
      filename,
      minThreads: options.resident === true ? threads : 0,
      maxThreads: threads,
      idleTimeout: IDLE_TIMEOUT,
      concurrentTasksPerWorker: 1,
    });
  }

  /** An applier of blobs from one source to one store. */
  applier(source: BlobSource, limits: LayerLimits, store: StoreTraits): Applier {
    return { apply: (blob, mounts, options) => this.run(source, limits, store, blob, mounts, options) };
  }

  /** Ends the threads, whatever they do. */
  async close(): Promise<void> {
    await this.pool.destroy();
  }

  private run(
    source: BlobSource,
    limits: LayerLimits,
    store: StoreTraits,
    blob: Descriptor,
    mounts: readonly Mount[],
    options: ApplyOptions,
  ): Promise<AppliedDiff> {
    const { signal, onProgress, algorithm, below } = options;
    const target = diffTarget(mounts, below === 'parent' ? 'everything' : below, store);
    // the pool's own queue stays empty: it could only end a task by ending its thread
    return this.slots.run(blob.size, signal, async () => {
      const { port1, port2 } = new MessageChannel();
      if (onProgress !== undefined) port1.on('message', (progress: ApplyProgress) => onProgress(progress));
      const abort = (): void => {
        if (signal === undefined) return;
        const message: ApplyMessage = { abort: abortError(signal).serialize() };
        port1.postMessage(message);
      };
      signal?.addEventListener('abort', abort, { once: true });
      try {
        const lent = await source.lend(blob);
        const task: ApplyTask = { source: lent, blob, target, algorithm, limits, native: this.native, port: port2 };
        // piscina takes its list's type from an overload of postMessage that has changed
        const transferList = [port2] as never;
        const outcome = await this.pool.run(task, { transferList });
        if ('error' in outcome) throw UnpackError.deserialize(outcome.error);
        return outcome.diff;
      } catch (error) {
        throw toUnpackError(error);
      } finally {
        signal?.removeEventListener('abort', abort);
        port1.close();
      }
    });
  }
}
