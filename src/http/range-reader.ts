import { abortError, UnpackError } from '../errors.ts';
import type { SpareBuffers } from '../system/spare-buffers.ts';
import { ConnectionPlan } from './connection-plan.ts';
import { type Range, Segment, type SegmentTransfer } from './segment.ts';
import { idleTimer, type MinimumSpeed, speedTimer } from './timeouts.ts';
import { WaitingTime } from './waiting-time.ts';

const MiB = 1024 * 1024;

/**
 * Number of ranges that are requested early, while other ranges are almost complete. A connection transfers no bytes
 * between a request and its answer. With a latency of 20 ms that is an eighth of the time.
 */
const REQUESTED_EARLY = 2;

/** Number of buffers that are kept for the next download. */
const BUFFERS_KEPT = 16;

/** The connection of a busy reader is paused when this number of bytes is ready. */
const READY = MiB;

/**
 * Number of bytes after which the reader yields to the event loop. A reader that never waits must yield, because Node
 * reads sockets only between turns.
 */
const TURN = MiB / 2;

export interface RangeReaderOptions {
  /** Offset of the first byte in the blob. */
  readonly offset: number;
  /** Size of the blob in bytes; Infinity if it is unknown. */
  readonly end: number;
  /**
   * Returns the present maximum memory in bytes. One buffer for each connection and the chunk that is being read are
   * not counted.
   */
  readonly window: () => number;
  /** Whether ranges can be requested in addition to the first request. */
  readonly ranges: boolean;
  /** Buffers of SEGMENT_BUFFER bytes. */
  readonly buffers: SpareBuffers;
  /** Requests a segment: the first, which is everything from `offset` on, or a range. */
  readonly request: (segment: Segment, first: boolean) => SegmentTransfer;
  /** Called if ranges bring no gain from this server. */
  readonly onNoGain?: (() => void) | undefined;
  /** The name of the blob in messages. */
  readonly what: string;
  /** Time limit in milliseconds for a read without bytes. Time in which the reader is busy does not count. */
  readonly idleTimeout: number;
  readonly minimumSpeed?: MinimumSpeed | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * Reads a blob in order, over as many connections as the reader can use (ConnectionPlan decides). S3 limits the speed
 * of one connection to some tens of megabytes a second. The first request is for everything. At the same time, ranges
 * further on are requested:
 *
 *     first    ├──────────────▶│ is cancelled here, if the range has an answer
 *     ranges                   ├──────┤├──────┤├──────┤…
 *
 * If the first request reaches a range that has no answer yet, the first request continues, and the range is dropped.
 * If ranges are refused or bring no gain, the first request brings everything. So a download is never slower than one
 * request.
 *
 * A chunk is valid until the next one is requested. States:
 *
 *     new ──begin()──▶ reading ──end of the blob, failure, abort, return()──▶ closed
 *
 * A closed reader has no requests and no buffers. `next` then throws the failure, if there was one.
 */
export class RangeReader implements AsyncIterableIterator<Buffer, undefined> {
  readonly #options: RangeReaderOptions;
  readonly #plan: ConnectionPlan;
  readonly #idle;
  readonly #speed;
  readonly #onAbort: () => void;
  #state: 'new' | 'reading' | 'closed' = 'new';
  /** Requested segments that are not completely read, in the order of the blob. */
  readonly #row: Segment[] = [];
  /** The first request, until it is complete. */
  #first: Segment | undefined;
  /** Number of segments that are still arriving. */
  #active = 0;
  /** The failure of the whole read: an abort, a timeout, or the failure of the segment that is read next. */
  #failure: UnpackError | undefined;
  #wake: (() => void) | undefined;
  readonly #waiting = new WaitingTime();
  #sinceTurn = 0;
  /** Number of bytes that have arrived but were not read. */
  #ready = 0;

  constructor(options: RangeReaderOptions) {
    this.#options = options;
    this.#plan = new ConnectionPlan(options.end, options.window, options.ranges);
    this.#idle = idleTimer(options.idleTimeout, () => this.#timeOut());
    this.#speed = speedTimer(options.minimumSpeed, (sentence) => this.#fail(this.#unavailable(sentence)));
    const { signal } = options;
    this.#onAbort = () => {
      if (signal !== undefined) this.#fail(abortError(signal));
    };
    signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /**
   * Sends the first request and waits until its answer begins.
   * @throws UnpackError the failure of the request; SOURCE_UNAVAILABLE after the idle timeout; the reason of the signal
   */
  async begin(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    this.#expect('new');
    this.#state = 'reading';
    const { offset, end } = this.#options;
    const first = this.#request({ from: offset, to: end }, true);
    this.#first = first;
    while (this.#failure === undefined && !first.settled) await this.#wait();
    const failure = this.#failure ?? (first.answered ? undefined : first.failure);
    if (failure === undefined) return;
    this.#close();
    throw failure;
  }

  async next(): Promise<IteratorResult<Buffer, undefined>> {
    if (this.#sinceTurn >= TURN && this.#active > 0) await new Promise((resolve) => setImmediate(resolve));
    const chunk = await this.#take();
    if (chunk === undefined) {
      this.#close();
      return { done: true, value: undefined };
    }
    this.#sinceTurn += chunk.length;
    this.#ready -= chunk.length;
    this.#addConnections();
    for (const segment of this.#row) if (segment.paused && this.#mayArrive(segment, READY / 2)) segment.resume();
    this.#requestAhead();
    return { done: false, value: chunk };
  }

  async return(): Promise<IteratorResult<Buffer, undefined>> {
    this.#failure ??= new UnpackError('INTERNAL', `${this.#options.what}: the reader was closed`);
    this.#close();
    this.#wake?.();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** The next bytes in order. `undefined` after the last byte of the blob. */
  async #take(): Promise<Buffer | undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const [segment] = this.#row;
      if (segment === undefined) return undefined;
      const chunk = segment.take();
      if (chunk !== undefined) return chunk;
      if (segment.failure !== undefined) {
        this.#fail(segment.failure);
      } else if (segment.ended) {
        this.#row.shift();
        this.#speed.reset();
        this.#requestAhead();
      } else {
        await this.#wait();
      }
    }
  }

  /** Waits for news about the segment that is read next. */
  async #wait(): Promise<void> {
    this.#waiting.begin();
    this.#idle.start();
    this.#speed.start();
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = undefined;
    this.#idle.stop();
    this.#speed.stop();
    this.#waiting.end();
  }

  #request(range: Range, first: boolean): Segment {
    this.#expect('reading');
    const segment: Segment = new Segment(range, this.#options.buffers, {
      arrived: (count) => this.#arrived(segment, count),
      finished: () => this.#finished(segment),
    });
    this.#active += 1;
    this.#row.push(segment);
    segment.requestedAt = this.#waiting.total;
    segment.transfer = this.#options.request(segment, first);
    return segment;
  }

  #requestAhead(): void {
    const ending = this.#row.reduce((count, segment) => (segment.endsSoon && !segment.ended ? count + 1 : count), 0);
    const limit = this.#plan.connections + Math.min(ending, REQUESTED_EARLY);
    while (this.#state === 'reading' && this.#active < limit && this.#plan.hasRanges) {
      if (this.#ready >= this.#options.window()) return;
      this.#request(this.#plan.nextRange(), false);
    }
  }

  #addConnections(): void {
    const sample = this.#waiting.sample();
    if (sample === undefined || !this.#plan.addConnections(sample, this.#first)) return;
    this.#requestAhead();
    this.#plan.requested(this.#row.at(-1));
  }

  /** Bytes have arrived, or with a count of 0 the answer has begun. @returns whether the transfer continues */
  #arrived(segment: Segment, count: number): boolean {
    if (segment.dropped) return false;
    this.#ready += count;
    this.#sinceTurn = 0;
    if (count === 0 && segment.latency === undefined) {
      segment.latency = this.#waiting.total - segment.requestedAt;
      if (segment !== this.#first) this.#judge(segment);
    }
    if (segment === this.#first) this.#meetRanges(segment);
    else if (segment.position > segment.range.to) this.#ready -= segment.truncate(segment.range.to);
    else if (!segment.endsSoon && this.#endsSoon(segment)) {
      segment.endsSoon = true;
      this.#requestAhead();
    }
    if (this.#row[0] === segment) {
      this.#speed.received(count);
      this.#wake?.();
    }
    return !segment.ended && this.#mayArrive(segment, READY);
  }

  /**
   * Whether the segment will be complete before the answer to a new request would begin, at the present speed and
   * latency.
   */
  #endsSoon(segment: Segment): boolean {
    const { answeredAt, received, range, position } = segment;
    if (answeredAt === undefined || received === 0) return false;
    const passed = performance.now() - answeredAt;
    return (range.to - position) * passed <= received * segment.delay;
  }

  #mayArrive(segment: Segment, limit: number): boolean {
    // one connection is fast enough for the reader: pause it, so that its bytes stay in the processor's cache
    if (this.#plan.connections === 1) return this.#ready < limit;
    if (this.#ready < this.#options.window()) return this.#row[0] !== segment || segment.ready < limit;
    // the segment that is read next must continue, even if the others fill the window
    return this.#row[0] === segment && segment.ready === 0;
  }

  #judge(range: Segment): void {
    const decision = this.#plan.judge(range, this.#first);
    if (decision === 'keep') return;
    if (decision === 'grow') {
      this.#requestAhead();
      this.#plan.requested(this.#row.at(-1));
      return;
    }
    if (decision === 'drop') this.#dropRanges();
    this.#options.onNoGain?.();
  }

  /** Cancels the first request at the start of an answered range. A range without an answer is dropped. */
  #meetRanges(first: Segment): void {
    for (let next = this.#row[1]; next !== undefined && first.position >= next.range.from; next = this.#row[1]) {
      if (next.answered) {
        this.#ready -= first.truncate(next.range.from);
        return;
      }
      this.#row.splice(1, 1);
      this.#drop(next);
      if (this.#plan.overtake()) {
        this.#dropRanges();
        this.#options.onNoGain?.();
      } else if (this.#row.length === 1) {
        this.#plan.backToSingle();
      }
    }
  }

  #finished(segment: Segment): void {
    this.#active -= 1;
    if (segment === this.#first) {
      this.#first = undefined;
      if (segment.position >= this.#options.end) this.#plan.stop();
    } else if (this.#first !== undefined && segment.failure !== undefined) {
      // the first request still brings these bytes
      this.#dropRanges();
    }
    // the caller requests the rest again after a failure, and after a segment that was cut short
    if (segment.failure !== undefined || segment.position < segment.range.to) this.#endAfter(segment);
    this.#requestAhead();
    if (this.#row[0] === segment) this.#wake?.();
  }

  #endAfter(segment: Segment): void {
    const at = this.#row.indexOf(segment);
    if (at < 0) return;
    this.#plan.stop();
    for (const later of this.#row.splice(at + 1)) this.#drop(later);
  }

  /** The first request brings everything. */
  #dropRanges(): void {
    this.#plan.firstOnly();
    for (const range of this.#row.splice(1)) this.#drop(range);
    if (this.#first?.paused && this.#mayArrive(this.#first, READY)) this.#first.resume();
  }

  #drop(segment: Segment): void {
    if (!segment.ended && segment.failure === undefined) this.#active -= 1;
    this.#ready -= segment.ready;
    segment.drop();
  }

  #timeOut(): void {
    const missing = this.#row[0]?.answered === true ? 'bytes' : 'answer';
    this.#fail(this.#unavailable(`no ${missing} came for ${this.#options.idleTimeout / 1000} s`));
  }

  #unavailable(sentence: string): UnpackError {
    return new UnpackError('SOURCE_UNAVAILABLE', `${this.#options.what}: ${sentence}`);
  }

  #fail(failure: UnpackError): void {
    if (this.#state === 'closed') return;
    this.#failure ??= failure;
    this.#close();
    this.#wake?.();
  }

  #close(): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#idle.stop();
    this.#speed.stop();
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
    for (const segment of this.#row) segment.drop();
    this.#row.length = 0;
    this.#options.buffers.trim(BUFFERS_KEPT);
  }

  #expect(state: 'new' | 'reading'): void {
    if (this.#state !== state) throw new Error(`${this.#options.what}: the reader is ${this.#state}, not ${state}`);
  }
}
