import { setTimeout as sleep } from 'node:timers/promises';
import { toUnpackError, type UnpackError } from '../errors.ts';
import type { StoreKeeper } from '../image/unpack.ts';
import type { Log } from '../rootfs/applier.ts';
import { durationText } from '../units.ts';
import type { Logger } from './log.ts';

/** Pause in milliseconds between two probes of a faulty store. It doubles each time, from FIRST_PAUSE to LAST_PAUSE. */
const FIRST_PAUSE = 1000;
const LAST_PAUSE = 30_000;

export interface StoreGuardOptions {
  /** If it is absent, the store is not probed and counts as sound. */
  readonly keeper: Pick<StoreKeeper, 'tidy' | 'check'> | undefined;
  /** Called when the store becomes faulty, and when it is sound again. */
  readonly onChange: (canWrite: boolean) => void;
  readonly log: Logger;
}

/**
 * Tracks whether the store of this worker can be written. While the store is faulty, the worker takes no jobs.
 *
 *     sound → faulty   when a job fails and a probe of the store fails, too
 *     faulty → sound   when a probe succeeds; probes run after 1 s, 2 s, … 30 s
 */
export class StoreGuard {
  readonly #options: StoreGuardOptions;
  readonly #closing = new AbortController();
  #fault: UnpackError | undefined;
  #faults = 0;
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: StoreGuardOptions) {
    this.#options = options;
  }

  /** Why the store cannot be written; `undefined` while it is sound. */
  get fault(): UnpackError | undefined {
    return this.#fault;
  }

  /** How often the store became faulty. */
  get faults(): number {
    return this.#faults;
  }

  /**
   * Probes the store, to find out whether a failure was a fault of this machine.
   * @param leftovers whether to remove first what a failed layer left
   * @returns the fault; `undefined` if the store can be written
   */
  async examine(leftovers: boolean): Promise<UnpackError | undefined> {
    // one probe at a time, because each must follow the removal of its own leftovers
    const probe = this.#last.then(() => this.#fault ?? this.#probe(leftovers, true));
    this.#last = probe;
    const fault = await probe;
    if (fault !== undefined && this.#fault === undefined && !this.#closing.signal.aborted) this.#becomeFaulty(fault);
    return fault;
  }

  /** Stops probing. */
  close(): void {
    this.#closing.abort();
  }

  async #probe(leftovers: boolean, logs: boolean): Promise<UnpackError | undefined> {
    const { keeper } = this.#options;
    const log: Log = (level, sentence, fields = {}) => {
      if (logs) this.#options.log[level](fields, sentence);
    };
    try {
      if (leftovers) await keeper?.tidy(log);
      await keeper?.check(log);
      return undefined;
    } catch (error) {
      return toUnpackError(error);
    }
  }

  #becomeFaulty(fault: UnpackError): void {
    const { log, onChange } = this.#options;
    this.#fault = fault;
    this.#faults += 1;
    log.error({ code: fault.code }, `takes no more jobs until the store can be written: ${fault.message}`);
    onChange(false);
    this.#waitForStore().catch(() => {});
  }

  async #waitForStore(): Promise<void> {
    const { log, onChange } = this.#options;
    const { signal } = this.#closing;
    const since = performance.now();
    for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LAST_PAUSE)) {
      await sleep(pause, undefined, { signal });
      const fault = await this.#probe(true, false);
      if (signal.aborted) return;
      if (fault === undefined) break;
      this.#fault = fault;
    }
    this.#fault = undefined;
    log.info(`the store can be written again after ${durationText(performance.now() - since)}; takes jobs again`);
    onChange(true);
  }
}
