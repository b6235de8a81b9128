/** Milliseconds that are looked at to see whether more connections would help. */
const LOOK = 8;

/** A part of a reader's time, in milliseconds. */
export interface Look {
  readonly passed: number;
  readonly waited: number;
}

/** How long a reader waits for bytes. The rest of its time it works with them. */
export class WaitingTime {
  #ever = 0;
  #since: number | undefined;
  /** When the last look was, from the first call on, and `total` then. */
  #lookedAt: number | undefined;
  #before = 0;

  begin(): void {
    this.#since = performance.now();
  }

  end(): void {
    this.#ever = this.total;
    this.#since = undefined;
  }

  /**
   * Milliseconds that the reader has waited. Latencies are taken by this clock: while the thread writes a file, nobody sees
   * that an answer has come.
   */
  get total(): number {
    return this.#ever + (this.#since === undefined ? 0 : performance.now() - this.#since);
  }

  /** The time since the last look; `undefined` at the first call, and before enough has passed. */
  look(): Look | undefined {
    const now = performance.now();
    const passed = now - (this.#lookedAt ?? now);
    if (this.#lookedAt !== undefined && passed < LOOK) return undefined;
    const waited = this.total - this.#before;
    const isFirst = this.#lookedAt === undefined;
    this.#lookedAt = now;
    this.#before = this.total;
    return isFirst ? undefined : { passed, waited };
  }
}

/** How many times as fast bytes could come until the reader has no time to wait any more, `most` at most. */
export function timesFaster({ passed, waited }: Look, most: number): number {
  return passed / Math.max(passed - waited, passed / most, Number.EPSILON);
}
