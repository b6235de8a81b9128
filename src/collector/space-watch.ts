import { setTimeout as sleep } from 'node:timers/promises';
import { toUnpackError } from '../errors.ts';
import type { Log } from '../rootfs/applier.ts';
import { diskOf } from '../system/space.ts';
import { bytesText } from '../units.ts';
import type { Collector } from './collector.ts';
import { amountOn, freeSpaceText, isBelow, type Marks, missingOf } from './free-space.ts';
import { keptText } from './plan-text.ts';

/** Milliseconds between two looks at the free space: while jobs run, and while none runs. */
const BUSY = 2000;
const IDLE = 20_000;

export interface SpaceWatchOptions {
  readonly collector: Collector;
  readonly marks: Marks;
  /** Whether jobs run. */
  readonly isBusy: () => boolean;
  readonly log: Log;
}

/**
 * Looks at the free space of a worker's disk, and collects when less than the lower mark is free. It logs when it begins,
 * each image that goes, and why it cannot free more; the same reason once only.
 */
export class SpaceWatch implements AsyncDisposable {
  readonly #options: SpaceWatchOptions;
  readonly #closing = new AbortController();
  readonly #running: Promise<void>;
  /** The last sentence about what is wrong, so that it is not repeated. */
  #told: string | undefined;

  constructor(options: SpaceWatchOptions) {
    this.#options = options;
    this.#running = this.#run();
  }

  /** Why images that should be removed cannot be; `undefined` if enough is free, or was made free. */
  get problem(): string | undefined {
    return this.#told;
  }

  /** Stops, after the image that is being removed. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      const failed = (error: unknown): boolean => {
        if (!signal.aborted) this.#tell(`images cannot be removed: ${toUnpackError(error).message}`);
        return true;
      };
      const inVain = await this.#look(signal).catch(failed);
      const pause = (): number => (this.#options.isBusy() && !inVain ? BUSY : IDLE);
      // in short steps, because a job can begin at any time
      for (let waited = 0; waited < pause() && !signal.aborted; waited += BUSY) {
        await sleep(BUSY, undefined, { signal, ref: false }).catch(() => {});
      }
    }
  }

  /** @returns whether it could not free enough */
  async #look(signal: AbortSignal): Promise<boolean> {
    const { collector, marks, log } = this.#options;
    const why = await collector.whyOff();
    if (why !== undefined) {
      this.#tell(`no images are removed (UNPACK_GC_LOW), because ${why}`);
      return true;
    }
    const { root } = collector.store;
    if (!isBelow(await diskOf(root), marks.low)) {
      this.#told = undefined;
      return false;
    }
    const low = freeSpaceText(marks.low);
    const options = { why: `less than ${low} was free (UNPACK_GC_LOW)`, log, signal };
    const collected = await collector.tryCollect((disk) => missingOf(disk, amountOn(disk, marks.high)), options);
    if (collected === undefined) return false;
    if (!isBelow(collected.disk, marks.low)) {
      this.#told = undefined;
      return false;
    }
    const stays = keptText(collected.plan?.kept ?? []);
    this.#tell(
      `only ${bytesText(collected.disk.bytes)} is free on the disk of ${root}, less than UNPACK_GC_LOW=${low}, and no image can be removed${stays === '' ? '' : ` (${stays})`}: unpin or unmount images, remove other files, or use a larger disk`,
    );
    return true;
  }

  #tell(sentence: string): void {
    // free space changes all the time
    const same = sentence.replace(/only .*? is free/, '');
    if (same !== this.#told) this.#options.log('warn', sentence);
    this.#told = same;
  }
}
