import type { JobCounts } from '../queue/overview.ts';

/**
 * How many jobs waited and ran, minute by minute, since the board started, for a week at most. BullMQ counts only jobs that have
 * finished, so the board counts these itself.
 */
export class QueueHistory {
  readonly #samples: Sample[] = [];
  readonly #read: () => Promise<JobCounts>;
  readonly #timer: NodeJS.Timeout;

  /** @param read the counts of now. If it fails, the minute is left out */
  constructor(read: () => Promise<JobCounts>) {
    this.#read = read;
    this.#timer = setInterval(() => void this.sample(Date.now()), MINUTE).unref();
  }

  /** Measures once; a page that shows the history needs the newest numbers. @param now milliseconds since 1970 */
  async sample(now: number): Promise<void> {
    const counts = await this.#read().catch(() => undefined);
    if (counts === undefined) return;
    const { waiting, prioritized, delayed, active } = counts;
    const measured = { at: now, waiting: waiting + prioritized, delayed, active };
    const last = this.#samples.at(-1);
    // one sample for each minute
    if (last !== undefined && Math.floor(last.at / MINUTE) === Math.floor(now / MINUTE)) {
      this.#samples[this.#samples.length - 1] = {
        at: now,
        waiting: Math.max(last.waiting, measured.waiting),
        delayed: Math.max(last.delayed, delayed),
        active: Math.max(last.active, active),
      };
      return;
    }
    this.#samples.push(measured);
    if (this.#samples.length > KEPT) this.#samples.shift();
  }

  /** The largest number in each of `bins` equal intervals that end now; `undefined` where nothing was measured. */
  largest(name: 'waiting' | 'delayed' | 'active', minutes: number, bins: number, now: number): (number | undefined)[] {
    const found = new Array<number | undefined>(bins).fill(undefined);
    const width = (minutes * MINUTE) / bins;
    for (const sample of this.#samples) {
      const bin = bins - 1 - Math.floor((now - sample.at) / width);
      if (bin >= 0 && bin < bins) found[bin] = Math.max(found[bin] ?? 0, sample[name]);
    }
    return found;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

interface Sample {
  readonly at: number;
  readonly waiting: number;
  readonly delayed: number;
  readonly active: number;
}

const MINUTE = 60_000;
/** A week. */
const KEPT = 7 * 24 * 60;
