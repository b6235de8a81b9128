import { abortError, UnpackError } from '../errors.ts';
import type { SpareBuffers } from '../system/spare-buffers.ts';
import { PIECE, Segment, type SegmentTransfer } from './segment.ts';
import { watchSilence } from './silence.ts';

const MiB = 1024 * 1024;

/** Connections of one download at most. */
const MOST_CONNECTIONS = 8;

/** Bytes of one ranged request at most: at 60 MB/s its 20 ms to the first byte are then an eighth of its time. */
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

/** Milliseconds that are looked at to see whether more connections would help. */
const LOOK = 8;

export interface RangeReaderOptions {
  /** Of the blob, where reading begins. */
  readonly offset: number;
  /** Of the blob, too, or infinite where it is not known and everything is asked for in one request. */
  readonly end: number;
  /** Bytes that may be held now, but for a piece a connection and the one that is being read. */
  readonly window: () => number;
  /** Everything is asked for in one request. */
  readonly alone: boolean;
  /** Memory for what arrives, PIECE long. */
  readonly pieces: SpareBuffers;
  /** Asks for the range of a segment, and tells the segment what comes of it. */
  readonly ask: (segment: Segment) => SegmentTransfer;
  /** What is being read, for messages. */
  readonly what: string;
  /** Longest time in milliseconds that a read waits for bytes; the time the reader is busy does not count. */
  readonly idleTimeout: number;
  readonly signal: AbortSignal | undefined;
}

/**
 * A blob in order, over as many connections as the reader can use: one at first, and up to eight while it waits more than
 * it works. S3 gives a connection some tens of megabytes a second however fast the machine is; a source that is fast
 * enough is not asked for more than it takes. The first segments are shorter, each by an eighth, so that they end one
 * after the other and not all at once.
 *
 * A chunk is valid until the next is asked for. At most `window` bytes are held.
 */
export class RangeReader implements AsyncIterableIterator<Buffer, undefined> {
  readonly #options: RangeReaderOptions;
  readonly #silence;
  readonly #onAbort: () => void;
  /** Asked for and not yet read to the end, in order. */
  readonly #row: Segment[] = [];
  #connections = 1;
  /** Segments that are still arriving. */
  #active = 0;
  #asked = 0;
  /** Where the next segment begins, and the end of all. */
  #next: number;
  #end: number;
  /** What ends all of it: an abort, silence. What befalls one segment is told when its turn comes. */
  #failure: UnpackError | undefined;
  #closed = false;
  #wake: (() => void) | undefined;
  /** When the last look was, from the first chunk on, and milliseconds of waiting since. */
  #lookedAt = Number.NaN;
  #waited = 0;
  /** No look before this one is answered: it was asked for when connections were last added. */
  #awaited: Segment | undefined;
  #sinceTurn = 0;
  /** Bytes that have arrived and were not read. */
  #ready = 0;

  constructor(options: RangeReaderOptions) {
    this.#options = options;
    this.#next = options.offset;
    this.#end = options.end;
    this.#silence = watchSilence(options.idleTimeout, () => this.#beSilent());
    const { signal } = options;
    this.#onAbort = () => {
      if (signal !== undefined) this.#fail(abortError(signal));
    };
    signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /**
   * Asks for the first bytes and waits for the answer's beginning.
   * @throws UnpackError what the segment was refused with; SOURCE_UNAVAILABLE for silence; what the signal's reason says
   */
  async begin(): Promise<void> {
    this.#askAhead();
    const [first] = this.#row;
    while (this.#failure === undefined && first !== undefined && !first.settled) await this.#wait();
    const failure = this.#failure ?? (first?.answered === true ? undefined : first?.failure);
    if (failure === undefined) return;
    this.#close();
    throw failure;
  }

  /** Nothing more will be asked for: what the first answer brings is all. */
  askNoMore(): void {
    this.#end = this.#next;
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
    if (Number.isNaN(this.#lookedAt)) this.#lookAgain();
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
        this.#askAhead();
      } else {
        await this.#wait();
      }
    }
  }

  /** Until something comes for the first segment of the row. */
  async #wait(): Promise<void> {
    const began = performance.now();
    this.#silence.arm();
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = undefined;
    this.#silence.disarm();
    this.#waited += performance.now() - began;
  }

  #askAhead(): void {
    while (this.#active < this.#connections && !this.#closed && (this.#next < this.#end || this.#asked === 0)) {
      if (this.#ready >= this.#options.window()) return;
      const length = this.#nextLength();
      const range = { from: this.#next, to: this.#next + length };
      const segment: Segment = new Segment(range, this.#options.pieces, {
        arrived: (count) => this.#arrived(segment, count),
        over: () => this.#over(segment),
      });
      this.#active += 1;
      this.#asked += 1;
      this.#next += length;
      this.#row.push(segment);
      segment.transfer = this.#options.ask(segment);
    }
  }

  /** @returns whether more of the segment may arrive by itself */
  #arrived(segment: Segment, count: number): boolean {
    this.#ready += count;
    this.#sinceTurn = 0;
    if (this.#row[0] === segment) this.#wake?.();
    return this.#mayArrive(segment, READY);
  }

  #mayArrive(segment: Segment, most: number): boolean {
    // one connection alone is fast enough for the reader: what it brings is to stay in the processor's cache
    if (this.#connections === 1) return this.#ready < most;
    return this.#row[0] === segment ? segment.ready < most : this.#ready < this.#options.window();
  }

  #over(segment: Segment): void {
    this.#active -= 1;
    // what follows a failure will be asked for anew
    if (segment.failure !== undefined) this.askNoMore();
    this.#askAhead();
    if (this.#row[0] === segment) this.#wake?.();
  }

  #nextLength(): number {
    if (this.#options.alone) return this.#end - this.#next;
    const share = Math.min(LONGEST_SEGMENT, Math.max(SHORTEST_SEGMENT, this.#options.window() / SEGMENTS_AHEAD));
    const growing = Math.min(share, (share / MOST_CONNECTIONS) * (this.#asked + 1));
    return Math.min(Math.ceil(growing / PIECE) * PIECE, this.#end - this.#next);
  }

  /** More connections: as many times as what passed is longer than the reader's work, where it waits more than it works. */
  #look(): void {
    const now = performance.now();
    const passed = now - this.#lookedAt;
    if (passed < LOOK) return;
    const worked = Math.max(passed - this.#waited, LOOK / MOST_CONNECTIONS);
    if (this.#waited > worked && this.#connections < MOST_CONNECTIONS && this.#awaited?.settled !== false) {
      this.#connections = Math.min(MOST_CONNECTIONS, Math.ceil((this.#connections * passed) / worked));
      this.#askAhead();
      this.#awaited = this.#row.at(-1);
    }
    this.#lookAgain(now);
  }

  #lookAgain(now = performance.now()): void {
    this.#lookedAt = now;
    this.#waited = 0;
  }

  #beSilent(): void {
    const { what, idleTimeout } = this.#options;
    const missing = this.#row[0]?.answered === true ? 'bytes' : 'answer';
    const sentence = `${what}: no ${missing} came for ${idleTimeout / 1000} s`;
    this.#fail(new UnpackError('SOURCE_UNAVAILABLE', sentence));
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
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
    for (const segment of this.#row) segment.drop();
    this.#row.length = 0;
    this.#options.pieces.trim(KEPT);
  }
}
