/** How fast a job fetches, over the last seconds, for `--watch`. */

/** Milliseconds of the samples that count. */
const WINDOW = 5000;
/** A speed is shown when the samples cover at least this number of milliseconds. */
const LEAST = 1000;

interface Sample {
  readonly at: number;
  readonly bytes: number;
}

export interface Speed {
  readonly bytesPerSecond: number;
  /** Milliseconds until the rest is fetched at this speed; `undefined` while nothing arrives. */
  readonly left: number | undefined;
}

/** Records how many bytes have arrived when, and computes the speed of the last five seconds. */
export class Pace {
  #samples: Sample[] = [];

  /** @param bytes the number of bytes so far; a smaller number than before begins anew, as a new attempt does */
  add(bytes: number, now = performance.now()): void {
    if (bytes < (this.#samples.at(-1)?.bytes ?? 0)) this.#samples = [];
    this.#samples.push({ at: now, bytes });
    // the last one before the window stays, so that the samples cover all of it
    const first = this.#samples.findLastIndex(({ at }) => at <= now - WINDOW);
    if (first > 0) this.#samples.splice(0, first);
  }

  /** @param total number of bytes to fetch @returns `undefined` if it is not known yet, or all bytes have arrived */
  speed(total: number, now = performance.now()): Speed | undefined {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    if (first === undefined || last === undefined || last.bytes >= total || now - first.at < LEAST) return undefined;
    const bytesPerSecond = ((last.bytes - first.bytes) / (now - first.at)) * 1000;
    const left = bytesPerSecond > 0 ? ((total - last.bytes) / bytesPerSecond) * 1000 : undefined;
    return { bytesPerSecond, left };
  }
}
