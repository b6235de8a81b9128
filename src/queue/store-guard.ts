import { setTimeout as sleep } from 'node:timers/promises';
import { toUnpackError, type UnpackError } from '../errors.ts';
import type { StoreKeeper } from '../image/unpack.ts';
import type { Log } from '../rootfs/applier.ts';
import { durationText } from '../units.ts';
import type { Logger } from './log.ts';

/** Milliseconds between two probes of a store that can't be written: the first pause, doubled up to the last. */
const FIRST_PAUSE = 1000;
const LAST_PAUSE = 30_000;

export interface StoreGuardOptions {
  /** Absent: a store that can't be probed is thought to be in order. */
  readonly keeper: Pick<StoreKeeper, 'tidy' | 'check'> | undefined;
  /** Called when no more jobs are to be taken, and when they are again. */
  readonly onChange: (canWrite: boolean) => void;
  readonly log: Logger;
}

/**
 * Knows whether this worker's store can be written.
 *
 * *in order* → a failure of the store, and the probe after it fails → *at fault*: no jobs are taken; probed again after 1 s,
 * 2 s, … 30 s, until it can be written → *in order*.
 */
export class StoreGuard {
  readonly #options: StoreGuardOptions;
  readonly #closing = new AbortController();
  #fault: UnpackError | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: StoreGuardOptions) {
    this.#options = options;
  }

  /** Why the store can't be written, while it can't. */
  get fault(): UnpackError | undefined {
    return this.#fault;
  }

  /**
   * Whether the machine is to blame for a failure of the store.
   * @param leftovers whether a layer has failed and what it has left is to be removed first
   * @returns what is wrong with the store; `undefined`: it can be written
   */
  async examine(leftovers: boolean): Promise<UnpackError | undefined> {
    // one after the other: each must see the store after its own leftovers are gone
    const mine = this.#last.then(() => this.#fault ?? this.#probe(leftovers, true));
    this.#last = mine;
    const fault = await mine;
    if (fault !== undefined && this.#fault === undefined && !this.#closing.signal.aborted) this.#close(fault);
    return fault;
  }

  /** Probes no more. */
  close(): void {
    this.#closing.abort();
  }

  async #probe(leftovers: boolean, tells: boolean): Promise<UnpackError | undefined> {
    const { keeper } = this.#options;
    const log: Log = (level, sentence, fields = {}) => {
      if (tells) this.#options.log[level](fields, sentence);
    };
    try {
      if (leftovers) await keeper?.tidy(log);
      await keeper?.check(log);
      return undefined;
    } catch (error) {
      return toUnpackError(error);
    }
  }

  #close(fault: UnpackError): void {
    const { log, onChange } = this.#options;
    this.#fault = fault;
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
    log.info(`the store can be written again after ${durationText(performance.now() - since)}; takes jobs`);
    onChange(true);
  }
}
