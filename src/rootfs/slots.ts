import { abortError, throwIfAborted } from '../errors.ts';

/** What decides who goes first of those that wait. */
export interface Turn {
  /** Who came before whom: the smaller goes first, whatever else waits. */
  readonly place: number;
  /** Within one place the heaviest goes first: of several layers that share two threads, the longest must not start last. */
  readonly weight: number;
}

interface Waiter extends Turn {
  readonly start: () => void;
}

/**
 * A number of slots that work waits for, first come, first served by whole jobs: a small layer waits for what came before
 * its job, and for nothing that came later.
 */
export class Slots {
  private free: number;
  private readonly waiting: Waiter[] = [];

  constructor(count: number) {
    this.free = count;
  }

  /**
   * Runs `work` once a slot is free.
   * @throws the signal's reason as an UnpackError, at once, when it is aborted while waiting
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

/** Of two equals, the one that waits already. */
function goesFirst(waiting: Turn, later: Turn): boolean {
  return waiting.place === later.place ? waiting.weight >= later.weight : waiting.place < later.place;
}
