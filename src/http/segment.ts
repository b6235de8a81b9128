import type { UnpackError } from '../errors.ts';
import type { SpareBuffers } from '../system/spare-buffers.ts';

/** Bytes of one piece: few enough to stay in the processor's cache until they are digested and inflated. */
export const PIECE = 256 * 1024;

/** `to` is the first byte that no longer belongs to it; infinite where the end is not known. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

/** What a reader can do to the transfer of a segment. */
export interface SegmentTransfer {
  resume(): void;
  cancel(): void;
}

/** Who wants to know what becomes of a segment. */
interface SegmentReader {
  /** @returns whether more may come by itself; otherwise it is waited for `resume` */
  arrived(count: number): boolean;
  /** It is there, as far as it comes, or has failed. */
  over(): void;
}

interface Piece {
  readonly bytes: Buffer;
  filled: number;
  taken: number;
}

/** One range on its way: what has arrived and was not read. Asked → answered → ended; a failure or `drop` ends it at any time. */
export class Segment {
  /** By the reader's clock: when it was asked for, and milliseconds from then until its answer began. */
  askedAt = 0;
  latency: number | undefined;
  transfer: SegmentTransfer | undefined;
  /** Milliseconds from when it was asked for until its answer began, by `performance.now()`. */
  delay = 0;
  /** The reader has asked for another range because this one is about to end. */
  ending = false;
  /** When its answer began, by `performance.now()`; `undefined` before. */
  answeredAt: number | undefined;
  ended = false;
  failure: UnpackError | undefined;
  /** Bytes that have arrived, and those of them that were not taken yet. */
  received = 0;
  ready = 0;
  /** Reading goes on when it is told to. */
  stopped = false;
  /** Nobody wants it any more. */
  dropped = false;
  #range: Range;
  readonly #madeAt = performance.now();
  readonly #memory: SpareBuffers;
  readonly #reader: SegmentReader;
  readonly #pieces: Piece[] = [];

  constructor(range: Range, memory: SpareBuffers, reader: SegmentReader) {
    this.#range = range;
    this.#memory = memory;
    this.#reader = reader;
  }

  get range(): Range {
    return this.#range;
  }

  /** Of the blob: where its next byte belongs. */
  get place(): number {
    return this.#range.from + this.received;
  }

  get answered(): boolean {
    return this.answeredAt !== undefined;
  }

  /** Its answer has begun, or will not. */
  get settled(): boolean {
    return this.answered || this.failure !== undefined;
  }

  /** @param from where its bytes begin, if that is not where they were asked for */
  answer(from = this.#range.from): void {
    this.#range = { from, to: this.#range.to };
    this.answeredAt = performance.now();
    this.delay = this.answeredAt - this.#madeAt;
    this.#reader.arrived(0);
  }

  /** Where its next bytes go. */
  room(): Buffer {
    let last = this.#pieces.at(-1);
    if (last === undefined || last.filled === PIECE) {
      last = { bytes: this.#memory.take(), filled: 0, taken: 0 };
      this.#pieces.push(last);
    }
    return last.bytes.subarray(last.filled);
  }

  /** So many bytes of the last room are filled. @returns whether reading goes on by itself */
  filled(count: number): boolean {
    const last = this.#pieces.at(-1);
    if (last !== undefined) last.filled += count;
    this.received += count;
    this.ready += count;
    this.stopped = !this.#reader.arrived(count);
    return !this.stopped;
  }

  resume(): void {
    this.stopped = false;
    this.transfer?.resume();
  }

  /** It is there, as far as it comes. */
  end(): void {
    if (this.ended) return;
    this.ended = true;
    this.#reader.over();
  }

  /**
   * Nothing from `to` on is wanted: what has come of that is forgotten, which no one may have taken yet, and the segment
   * has ended. @returns how many bytes were forgotten
   */
  cut(to: number): number {
    const excess = this.place - to;
    this.#range = { from: this.#range.from, to };
    for (let left = excess; left > 0; ) {
      const last = this.#pieces.findLast(({ filled, taken }) => filled > taken);
      if (last === undefined) throw new Error('bytes that were taken cannot be forgotten');
      const count = Math.min(left, last.filled - last.taken);
      last.filled -= count;
      left -= count;
    }
    this.received -= excess;
    this.ready -= excess;
    this.transfer?.cancel();
    for (let last = this.#pieces.at(-1); last?.filled === 0; last = this.#pieces.at(-1)) {
      this.#pieces.pop();
      this.#memory.give(last.bytes);
    }
    this.end();
    return excess;
  }

  fail(failure: UnpackError): void {
    if (this.dropped) return;
    this.failure = failure;
    this.#reader.over();
  }

  /** What has arrived next; it is valid until the next call. */
  take(): Buffer | undefined {
    for (;;) {
      const [piece] = this.#pieces;
      if (piece === undefined) return undefined;
      if (piece.taken < piece.filled) {
        const chunk = piece.bytes.subarray(piece.taken, piece.filled);
        piece.taken = piece.filled;
        this.ready -= chunk.length;
        return chunk;
      }
      // more may be read into it
      if (piece.filled < PIECE && !this.ended) return undefined;
      this.#pieces.shift();
      this.#memory.give(piece.bytes);
    }
  }

  /** Ends the transfer and gives the memory back. */
  drop(): void {
    this.dropped = true;
    this.transfer?.cancel();
    for (const piece of this.#pieces.splice(0)) this.#memory.give(piece.bytes);
  }
}
