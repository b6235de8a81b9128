import { type Range, SEGMENT_BUFFER, type Segment } from './segment.ts';
import { speedUp, type TimeSample } from './waiting-time.ts';

const MiB = 1024 * 1024;

/** Maximum number of connections of one download. */
const MAX_CONNECTIONS = 8;

/**
 * Maximum size of a ranged request in bytes. Eight ranges fit into the window, because they arrive one after another.
 */
export const LONGEST_SEGMENT = 8 * MiB;
const SHORTEST_SEGMENT = MiB;

/** Number of segments in a window: on average half of each of eight segments has arrived, and one is being read. */
const SEGMENTS_IN_WINDOW = 6;

/** Maximum memory in bytes of one download, and of all downloads of a process together. */
export const WINDOW = SEGMENTS_IN_WINDOW * LONGEST_SEGMENT;
const ALL_WINDOWS = 4 * WINDOW;

/** The window of each download, if a process runs this number of downloads. */
export function windowOf(downloads: number): number {
  return Math.min(WINDOW, ALL_WINDOWS / Math.max(1, downloads));
}

/**
 * Connections are added if the reader waits for more than this part of its time: with one connection, and with several.
 */
const WAITS_ALONE = 1 / 2;
const WAITS_BESIDE = 1 / 8;

/** Ranges are used if all connections together are expected to be faster than one connection by this factor. */
const GAIN = 1.3;

/** If the first request reaches this number of ranges before their answers begin, no further ranges are used. */
const MAX_OVERTAKEN = 3;

/** The decision after the answer to a range has begun. */
export type Decision =
  /** Nothing. */
  | 'keep'
  /** Request more ranges. */
  | 'grow'
  /** Ranges bring no gain: drop them, the first request brings everything. */
  | 'drop'
  /** Ranges bring no gain any more: the rest comes with one more range. */
  | 'last';

/**
 * Decides how many connections a download uses, and which ranges it requests. RangeReader requests them.
 *
 *     single ─▶ trial ─▶ many
 *       ▲         │
 *       └─────────┘            from each of them ─▶ final
 *
 * - single: only the first request. While the reader waits for more than half of its time, one range is tried.
 * - trial: one range beside the first request. Its latency decides: many connections, or none beside the first.
 *   If the first request reaches the range before its answer, the download is single again, and the next trial is further on.
 * - many: as many connections as the reader needs to wait for less than an eighth of its time.
 * - final: no further ranges.
 */
export class ConnectionPlan {
  readonly #end: number;
  readonly #window: () => number;
  #state: 'single' | 'trial' | 'many' | 'final';
  #connections = 1;
  /** Where the next range begins. */
  #next = Number.POSITIVE_INFINITY;
  #ranges = 0;
  #overtaken = 0;
  #trial: Segment | undefined;
  /**
   * The range that was requested when connections were last added. The effect of more connections is unknown until its
   * answer.
   */
  #latest: Segment | undefined;
  /** Time in milliseconds for one range on one connection, estimated from the speed of the first request. */
  #rangeTime = 0;
  /** Whether the next range is the last range. */
  #restInOneRange = false;

  /**
   * @param end the size of the blob in bytes
   * @param window returns the present maximum memory in bytes
   * @param ranges false to use only the first request
   */
  constructor(end: number, window: () => number, ranges: boolean) {
    this.#end = end;
    this.#window = window;
    this.#state = ranges ? 'single' : 'final';
  }

  get connections(): number {
    return this.#connections;
  }

  /** Whether there is a next range. `nextRange` throws if there is none. */
  get hasRanges(): boolean {
    return this.#state !== 'final' && this.#next < this.#end;
  }

  nextRange(): Range {
    if (!this.hasRanges) throw new Error(`a connection plan that is ${this.#state} has no next range`);
    const from = this.#next;
    this.#next += this.#nextLength();
    this.#ranges += 1;
    return { from, to: this.#next };
  }

  /** Adds connections if the reader waits too much. @returns whether the caller should request ranges now */
  addConnections(sample: TimeSample, first: Segment | undefined): boolean {
    const mayWait = this.#connections === 1 ? WAITS_ALONE : WAITS_BESIDE;
    if (this.#state === 'final' || this.#connections >= MAX_CONNECTIONS || this.#latest?.settled === false)
      return false;
    if (sample.waited <= mayWait * sample.passed) return false;
    if (this.#state === 'single' && first !== undefined) return this.#beginTrial(first);
    this.#connections = Math.min(MAX_CONNECTIONS, Math.ceil(this.#connections * speedUp(sample, MAX_CONNECTIONS)));
    return true;
  }

  /** Ranges were requested after connections were added. @param last the last requested segment of all */
  requested(last: Segment | undefined): void {
    this.#latest = last;
    if (this.#state !== 'trial' || this.#trial !== undefined) return;
    // the window had no room for the trial
    if (last === undefined || last.answered) this.backToSingle();
    else this.#trial = last;
  }

  /** The answer to a range has begun. */
  judge(range: Segment, first: Segment | undefined): Decision {
    const latency = range.latency ?? 0;
    if (range === this.#trial) return this.#judgeTrial(latency, range.delay, first);
    const gain = (this.#connections * this.#rangeTime) / (latency + this.#rangeTime);
    if (this.#rangeTime === 0 || gain >= 1) return 'keep';
    this.#restInOneRange = true;
    return 'last';
  }

  /** The first request has reached a range that has no answer yet. @returns whether to use no further ranges */
  overtake(): boolean {
    this.#overtaken += 1;
    return this.#overtaken >= MAX_OVERTAKEN;
  }

  /** There are no ranges beside the first request. The next trial is further on. */
  backToSingle(): void {
    if (this.#state !== 'final') this.#state = 'single';
    this.#connections = 1;
    this.#next = Number.POSITIVE_INFINITY;
    this.#trial = undefined;
    this.#latest = undefined;
  }

  /** No further ranges. The running ones continue. */
  stop(): void {
    this.#state = 'final';
  }

  /** No further ranges, and the running ones were dropped. */
  firstOnly(): void {
    this.#state = 'final';
    this.#connections = 1;
    this.#trial = undefined;
  }

  /** Plans one range so far ahead that its answer should begin before the first request arrives there. */
  #beginTrial(first: Segment): boolean {
    const ahead = Math.max(SHORTEST_SEGMENT, 2 * (first.latency ?? 0) * speedOf(first)) * 4 ** this.#overtaken;
    const from = Math.ceil((first.position + ahead) / SEGMENT_BUFFER) * SEGMENT_BUFFER;
    if (from + SHORTEST_SEGMENT > this.#end) return false;
    this.#state = 'trial';
    this.#next = from;
    this.#connections = 2;
    return true;
  }

  #judgeTrial(latency: number, delay: number, first: Segment | undefined): Decision {
    this.#trial = undefined;
    this.#rangeTime = this.#longest() / speedOf(first);
    // until now only the first request brought bytes, and the reader has waited for more than half of its time
    const wanted = Math.max(3, Math.ceil(speedUp({ passed: delay, waited: latency }, MAX_CONNECTIONS)));
    if ((wanted * this.#rangeTime) / (latency + this.#rangeTime) < GAIN) return 'drop';
    this.#state = 'many';
    this.#connections = wanted;
    return 'grow';
  }

  /**
   * The first ranges have different lengths, in steps of an eighth, so that they are not all complete at the same time.
   */
  #nextLength(): number {
    if (this.#restInOneRange) return this.#end - this.#next;
    const longest = this.#longest();
    const growing = Math.min(longest, (longest / MAX_CONNECTIONS) * (this.#ranges + 2));
    return Math.min(Math.ceil(growing / SEGMENT_BUFFER) * SEGMENT_BUFFER, this.#end - this.#next);
  }

  #longest(): number {
    return Math.min(LONGEST_SEGMENT, Math.max(SHORTEST_SEGMENT, this.#window() / SEGMENTS_IN_WINDOW));
  }
}

/** Speed of the first request in bytes per millisecond. The result is never less than 1. */
function speedOf(first: Segment | undefined): number {
  if (first?.answeredAt === undefined) return 1;
  return Math.max(1, first.received / Math.max(1, performance.now() - first.answeredAt));
}
