/** Milliseconds between two samples. */
const SAMPLE = 8;

/** A part of a reader's time, in milliseconds. */
export interface TimeSample {
  readonly passed: number;
  readonly waited: number;
}

/** How long a reader waits for bytes. In the rest of its time it works with them. RangeReader measures it. */
export class WaitingTime {
  #sum = 0;
  #since: number | undefined;
  /** When the last sample was taken, and `total` at that time. */
  #sampledAt: number | undefined;
  #before = 0;

  begin(): void {
    this.#since = performance.now();
  }

  end(): void {
    this.#sum = this.total;
    this.#since = undefined;
  }

  /**
   * The total time in milliseconds that the reader has waited. Latencies are measured with this clock, because the
   * thread does not notice an answer while it writes a file.
   */
  get total(): number {
    return this.#sum + (this.#since === undefined ? 0 : performance.now() - this.#since);
  }

  /** The time since the last sample; `undefined` at the first call, and less than SAMPLE after the last one. */
  sample(): TimeSample | undefined {
    const now = performance.now();
    const passed = now - (this.#sampledAt ?? now);
    if (this.#sampledAt !== undefined && passed < SAMPLE) return undefined;
    const waited = this.total - this.#before;
    const isFirst = this.#sampledAt === undefined;
    this.#sampledAt = now;
    this.#before = this.total;
    return isFirst ? undefined : { passed, waited };
  }
}

/** How many times faster bytes must arrive so that the reader no longer waits; at most `limit`. */
export function speedUp({ passed, waited }: TimeSample, limit: number): number {
  return passed / Math.max(passed - waited, passed / limit, Number.EPSILON);
}
