import { abortError, UnpackError } from '../errors.ts';
import type { SpareBuffers } from '../system/spare-buffers.ts';
import { PIECE, Segment, type SegmentTransfer } from './segment.ts';
import { type MinimumSpeed, watchSilence, watchSpeed } from './timeouts.ts';
import { timesFaster, WaitingTime } from './waiting-time.ts';

const MiB = 1024 * 1024;

/** Connections of one download that bring bytes at once, at most. */
const MOST_CONNECTIONS = 8;

/**
 * Ranges that are asked for beside those, while others are about to end: a connection that asks only then brings nothing
 * until its answer begins, which is an eighth of its time where that takes 20 ms.
 */
const ASKED_EARLY = 2;

/** Bytes of one ranged request at most: eight that arrive, staggered, fit into the window. */
export const LONGEST_SEGMENT = 8 * MiB;
const SHORTEST_SEGMENT = MiB;

/** Segments that the window holds: while eight arrive, staggered, half of each is there, and one is read. */
const SEGMENTS_AHEAD = 6;

/** Bytes that one download holds at most, and all of a process together. */
export const WINDOW = SEGMENTS_AHEAD * LONGEST_SEGMENT;
const ALL_WINDOWS = 4 * WINDOW;

/** Bytes that each of so many downloads of a process may hold. */
export function windowOf(downloads: number): number {
  return Math.min(WINDOW, ALL_WINDOWS / Math.max(1, downloads));
}

/** Pieces that are kept for the next download. */
const KEPT = 16;

/** Bytes ready for a busy reader before the connection that it reads from has to wait. */
const READY = MiB;

/** Bytes that are handed out before the sockets have their turn again, which a reader that never waits would deny them. */
const TURN = MiB / 2;

/** Shares of its time that the reader may wait: before ranges are tried, which only much is worth, and once they are a gain. */
const WAITS_ALONE = 1 / 2;
const WAITS_ENOUGH = 1 / 8;

/** Ranges are asked for where all connections together should bring so many times what one does. */
const WORTH = 1.3;

/** How often the first connection may come to a range before that has an answer, until ranges are left alone. */
const MOST_OVERTAKEN = 3;

export interface RangeReaderOptions {
  /** Of the blob, where reading begins. */
  readonly offset: number;
  /** Of the blob, too, or infinite where it is not known. */
  readonly end: number;
  /** Bytes that may be held now, but for a piece a connection and the one that is being read. */
  readonly window: () => number;
  /** Everything comes by the first request. */
  readonly alone: boolean;
  /** Memory for what arrives, PIECE long. */
  readonly pieces: SpareBuffers;
  /** Asks for a segment: the first, which is to bring everything from `offset` on, or a range. It is told what comes of it. */
  readonly ask: (segment: Segment, first: boolean) => SegmentTransfer;
  /** Ranges were found to be no gain here. */
  readonly onNoGain?: (() => void) | undefined;
  /** What is being read, for messages. */
  readonly what: string;
  /** Longest time in milliseconds that a read waits for bytes; the time the reader is busy does not count. */
  readonly idleTimeout: number;
  readonly minimumSpeed?: MinimumSpeed | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * A blob in order, over as many connections as the reader can use. The first request asks for everything. While the reader
 * waits more than it works, ranges further on are asked for beside it, over up to eight connections: S3 gives each some
 * tens of megabytes a second however fast the machine is.
 *
 *     first    ├──────────────▶│ ends here once the range there has an answer
 *     ranges                   ├──────┤├──────┤├──────┤…
 *
 * Where the first request comes to a range before its answer, it goes on, and the range is dropped. Where a range takes so
 * long to its first byte that all together would bring no more than one connection, or is refused, there are none. So a
 * download is never slower than one request, whatever the server makes of ranges.
 *
 * The first ranges are shorter, each by an eighth, so that they end one after the other and not all at once.
 * A chunk is valid until the next is asked for. At most `window` bytes are held.
 */
export class RangeReader implements AsyncIterableIterator<Buffer, undefined> {
  readonly #options: RangeReaderOptions;
  readonly #silence;
  readonly #speed;
  readonly #onAbort: () => void;
  /** Asked for and not yet read to the end, in order. */
  readonly #row: Segment[] = [];
  /** The first request, while it brings bytes. */
  #first: Segment | undefined;
  /** No (further) ranges. */
  #single: boolean;
  #connections = 1;
  /** The range that shows whether more connections help. */
  #tried: Segment | undefined;
  #overtaken = 0;
  /** Segments that are still arriving. */
  #active = 0;
  #ranges = 0;
  /** Where the next range begins, and the end of all. */
  #next = Number.POSITIVE_INFINITY;
  #end: number;
  /** What ends all of it: an abort, silence. What befalls one segment is told when its turn comes. */
  #failure: UnpackError | undefined;
  #closed = false;
  #wake: (() => void) | undefined;
  readonly #waiting = new WaitingTime();
  /** Milliseconds that one connection takes for a range, as the first request showed. */
  #transfer = 0;
  /** The next range is all that is left. */
  #restAtOnce = false;
  /** No look before this one is answered: it was asked for when connections were last added. */
  #awaited: Segment | undefined;
  #sinceTurn = 0;
  /** Bytes that have arrived and were not read. */
  #ready = 0;

  constructor(options: RangeReaderOptions) {
    this.#options = options;
    this.#end = options.end;
    this.#single = options.alone;
    this.#silence = watchSilence(options.idleTimeout, () => this.#beSilent());
    this.#speed = watchSpeed(options.minimumSpeed, (sentence) => this.#drip(sentence));
    const { signal } = options;
    this.#onAbort = () => {
      if (signal !== undefined) this.#fail(abortError(signal));
    };
    signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /**
   * Asks for everything and waits for the answer's beginning.
   * @throws UnpackError what the request was refused with; SOURCE_UNAVAILABLE for silence; what the signal's reason says
   */
  async begin(): Promise<void> {
    const first = this.#ask(this.#options.offset, this.#end, true);
    this.#first = first;
    while (this.#failure === undefined && !first.settled) await this.#wait();
    const failure = this.#failure ?? (first.answered ? undefined : first.failure);
    if (failure === undefined) return;
    this.#close();
    throw failure;
  }

  async next(): Promise<IteratorResult<Buffer, undefined>> {
    if (this.#sinceTurn >= TURN && this.#active > 0) await new Promise((resolve) => setImmediate(resolve));
    const chunk = await this.#chunk();
    if (chunk === undefined) {
      this.#close();
      return { done: true, value: undefined };
    }
    this.#sinceTurn += chunk.length;
    this.#ready -= chunk.length;
    this.#look();
    for (const segment of this.#row) if (segment.stopped && this.#mayArrive(segment, READY / 2)) segment.resume();
    this.#askAhead();
    return { done: false, value: chunk };
  }

  async return(): Promise<IteratorResult<Buffer, undefined>> {
    this.#failure ??= new UnpackError('INTERNAL', `${this.#options.what}: the read was given up`);
    this.#close();
    this.#wake?.();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async #chunk(): Promise<Buffer | undefined> {
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
        this.#speed.again();
        this.#askAhead();
      } else {
        await this.#wait();
      }
    }
  }

  /** Until something comes for the first segment of the row. */
  async #wait(): Promise<void> {
    this.#waiting.begin();
    this.#silence.arm();
    this.#speed.arm();
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = undefined;
    this.#silence.disarm();
    this.#speed.disarm();
    this.#waiting.end();
  }

  #ask(from: number, to: number, first: boolean): Segment {
    const segment: Segment = new Segment({ from, to }, this.#options.pieces, {
      arrived: (count) => this.#arrived(segment, count),
      over: () => this.#over(segment),
    });
    this.#active += 1;
    this.#row.push(segment);
    segment.askedAt = this.#waiting.total;
    segment.transfer = this.#options.ask(segment, first);
    return segment;
  }

  #askAhead(): void {
    const ending = this.#row.reduce((count, segment) => (segment.ending && !segment.ended ? count + 1 : count), 0);
    const most = this.#connections + Math.min(ending, ASKED_EARLY);
    while (this.#active < most && !this.#single && !this.#closed && this.#next < this.#end) {
      if (this.#ready >= this.#options.window()) return;
      const from = this.#next;
      const length = this.#nextLength();
      this.#next += length;
      this.#ranges += 1;
      this.#ask(from, from + length, false);
    }
  }

  /** Whether all of a range will be there before the answer to another one begins, if both are as fast as it was. */
  #endsSoon(segment: Segment): boolean {
    const { answeredAt, received, range, place } = segment;
    if (answeredAt === undefined || received === 0) return false;
    const passed = performance.now() - answeredAt;
    return (range.to - place) * passed <= received * segment.delay;
  }

  /** @returns whether more of the segment may arrive by itself */
  #arrived(segment: Segment, count: number): boolean {
    if (segment.dropped) return false;
    this.#ready += count;
    this.#sinceTurn = 0;
    if (count === 0 && segment.latency === undefined) {
      segment.latency = this.#waiting.total - segment.askedAt;
      if (segment === this.#tried) this.#judge(segment.latency, segment.delay);
      else if (segment !== this.#first) this.#judgeAgain(segment.latency);
    }
    if (segment === this.#first) this.#meetRanges(segment);
    else if (segment.place > segment.range.to) this.#ready -= segment.cut(segment.range.to);
    else if (!segment.ending && this.#endsSoon(segment)) {
      segment.ending = true;
      this.#askAhead();
    }
    if (this.#row[0] === segment) {
      this.#speed.came(count);
      this.#wake?.();
    }
    return !segment.ended && this.#mayArrive(segment, READY);
  }

  #mayArrive(segment: Segment, most: number): boolean {
    // one connection alone is fast enough for the reader: what it brings is to stay in the processor's cache
    if (this.#connections === 1) return this.#ready < most;
    if (this.#ready < this.#options.window()) return this.#row[0] !== segment || segment.ready < most;
    // what is read next must come, however much there is of what is not
    return this.#row[0] === segment && segment.ready === 0;
  }

  #over(segment: Segment): void {
    this.#active -= 1;
    if (segment === this.#first) {
      this.#first = undefined;
      if (segment.place >= this.#end) this.#single = true;
    } else if (this.#first !== undefined && segment.failure !== undefined) {
      // the first request brings what this one did not
      this.#dropRanges();
    }
    // what follows a failure, or a segment that ends early, will be asked for anew
    if (segment.failure !== undefined || segment.place < segment.range.to) this.#endAfter(segment);
    this.#askAhead();
    if (this.#row[0] === segment) this.#wake?.();
  }

  #endAfter(segment: Segment): void {
    const at = this.#row.indexOf(segment);
    if (at < 0) return;
    this.#single = true;
    for (const later of this.#row.splice(at + 1)) this.#drop(later);
  }

  #drop(segment: Segment): void {
    if (!segment.ended && segment.failure === undefined) this.#active -= 1;
    this.#ready -= segment.ready;
    segment.drop();
  }

  /** Everything comes by the first request after all. */
  #dropRanges(): void {
    this.#single = true;
    this.#connections = 1;
    this.#tried = undefined;
    for (const range of this.#row.splice(1)) this.#drop(range);
    if (this.#first?.stopped && this.#mayArrive(this.#first, READY)) this.#first.resume();
  }

  /** The first request ends where a range has begun to arrive, and goes on where one has not. */
  #meetRanges(first: Segment): void {
    for (let next = this.#row[1]; next !== undefined && first.place >= next.range.from; next = this.#row[1]) {
      if (next.answered) {
        this.#ready -= first.cut(next.range.from);
        return;
      }
      this.#row.splice(1, 1);
      this.#drop(next);
      this.#overtaken += 1;
      if (this.#overtaken >= MOST_OVERTAKEN) {
        this.#dropRanges();
        this.#options.onNoGain?.();
      } else if (this.#row.length === 1) {
        // the next one is tried further on
        this.#next = Number.POSITIVE_INFINITY;
        this.#connections = 1;
        this.#tried = undefined;
        this.#awaited = undefined;
      }
    }
  }

  /** More connections, if a range that was tried had its first byte soon enough. */
  #judge(latency: number, delay: number): void {
    this.#tried = undefined;
    this.#transfer = this.#longest() / this.#speedOfFirst();
    // so far all has come by the first request, and the reader has waited for more than half of its time
    const wanted = Math.max(3, Math.ceil(timesFaster({ passed: delay, waited: latency }, MOST_CONNECTIONS)));
    if ((wanted * this.#transfer) / (latency + this.#transfer) < WORTH) {
      this.#dropRanges();
      this.#options.onNoGain?.();
      return;
    }
    this.#connections = wanted;
    this.#askAhead();
    this.#awaited = this.#row.at(-1);
  }

  /** The rest in one request, if all ranges at once have become slower than one connection was. */
  #judgeAgain(latency: number): void {
    if (this.#transfer === 0 || (this.#connections * this.#transfer) / (latency + this.#transfer) >= 1) return;
    this.#restAtOnce = true;
    this.#options.onNoGain?.();
  }

  /** Bytes a millisecond that the first request has brought; at least one. */
  #speedOfFirst(): number {
    const first = this.#first;
    if (first?.answeredAt === undefined) return 1;
    return Math.max(1, first.received / Math.max(1, performance.now() - first.answeredAt));
  }

  #longest(): number {
    return Math.min(LONGEST_SEGMENT, Math.max(SHORTEST_SEGMENT, this.#options.window() / SEGMENTS_AHEAD));
  }

  #nextLength(): number {
    if (this.#restAtOnce) return this.#end - this.#next;
    const share = this.#longest();
    const growing = Math.min(share, (share / MOST_CONNECTIONS) * (this.#ranges + 2));
    return Math.min(Math.ceil(growing / PIECE) * PIECE, this.#end - this.#next);
  }

  /** More connections: as many times as what passed is longer than the reader's work, where it waits for too much of it. */
  #look(): void {
    const look = this.#waiting.look();
    if (look === undefined) return;
    const mayWait = this.#connections === 1 ? WAITS_ALONE : WAITS_ENOUGH;
    const mayGrow = !this.#single && this.#connections < MOST_CONNECTIONS && this.#awaited?.settled !== false;
    if (look.waited > mayWait * look.passed && mayGrow) {
      if (this.#connections === 1 && this.#first !== undefined) this.#try(this.#first);
      else {
        this.#connections = Math.min(
          MOST_CONNECTIONS,
          Math.ceil(this.#connections * timesFaster(look, MOST_CONNECTIONS)),
        );
        this.#askAhead();
        this.#awaited = this.#row.at(-1);
      }
    }
  }

  /** Asks for one range, so far ahead that its answer should come before the first request is there. */
  #try(first: Segment): void {
    const latency = first.latency ?? 0;
    const ahead = Math.max(SHORTEST_SEGMENT, 2 * latency * this.#speedOfFirst()) * 4 ** this.#overtaken;
    const from = Math.ceil((first.place + ahead) / PIECE) * PIECE;
    if (from + SHORTEST_SEGMENT > this.#end) return;
    this.#next = from;
    this.#connections = 2;
    this.#askAhead();
    this.#tried = this.#row.at(-1);
    this.#awaited = this.#tried;
  }

  #beSilent(): void {
    const { what, idleTimeout } = this.#options;
    const missing = this.#row[0]?.answered === true ? 'bytes' : 'answer';
    const sentence = `${what}: no ${missing} came for ${idleTimeout / 1000} s`;
    this.#fail(new UnpackError('SOURCE_UNAVAILABLE', sentence));
  }

  #drip(sentence: string): void {
    this.#fail(new UnpackError('SOURCE_UNAVAILABLE', `${this.#options.what}: ${sentence}`));
  }

  #fail(failure: UnpackError): void {
    if (this.#closed) return;
    this.#failure ??= failure;
    this.#close();
    this.#wake?.();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#silence.disarm();
    this.#speed.disarm();
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
    for (const segment of this.#row) segment.drop();
    this.#row.length = 0;
    this.#options.pieces.trim(KEPT);
  }
}
