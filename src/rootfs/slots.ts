import { abortError, throwIfAborted } from '../errors.ts';

interface Waiter {
  readonly weight: number;
  readonly start: () => void;
}

/**
 * A number of places that work waits for. The heaviest waiting work goes first: of several layers that share two
 * threads, the longest must not be the last to start.
 */
export class Slots {
  private free: number;
  private readonly waiting: Waiter[] = [];

  constructor(count: number) {
    this.free = count;
  }

  /**
   * Runs `work` once a place is free.
   * @throws the signal's reason as an UnpackError, at once, when it is aborted while waiting
   */
  async run<T>(weight: number, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    throwIfAborted(signal);
    if (this.free > 0) this.free--;
    else await this.wait(weight, signal);
    try {
      return await work();
    } finally {
      const next = this.waiting.shift();
      if (next === undefined) this.free++;
      else next.start();
    }
  }

  private wait(weight: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = (): void => {
        this.waiting.splice(this.waiting.indexOf(waiter), 1);
        if (signal !== undefined) reject(abortError(signal));
      };
      const start = (): void => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      const waiter: Waiter = { weight, start };
      const heavier = this.waiting.findLastIndex((other) => other.weight >= weight);
      this.waiting.splice(heavier + 1, 0, waiter);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }
}
