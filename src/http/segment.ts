import type { UnpackError } from '../errors.ts';
import type { SpareBuffers } from '../system/spare-buffers.ts';

/**
 * Size of one buffer in bytes. It is small, so that the bytes stay in the processor's cache until they are hashed and
 * inflated.
 */
export const SEGMENT_BUFFER = 256 * 1024;

/** `to` is the first byte after the range; Infinity if the size is unknown. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

/** The HTTP transfer of a segment. */
export interface SegmentTransfer {
  resume(): void;
  cancel(): void;
}

/** The methods of RangeReader that segments call. */
interface SegmentReader {
  /** `count` bytes arrived; 0 when the answer begins. @returns false to pause the transfer until `resume` */
  arrived(count: number): boolean;
  /** The segment is complete or has failed. */
  finished(): void;
}

interface Filling {
  readonly bytes: Buffer;
  filled: number;
  taken: number;
}

/**
 * One requested range of a blob: the bytes that have arrived and were not read yet.
 *
 *     requested → answered → ended; from each of them → failed, or → dropped
 *
 * The transfer calls `answer`, `buffer`, `filled`, `end` and `fail`; RangeReader calls `take`, `resume`, `truncate` and `drop`.
 */
export class Segment {
  transfer: SegmentTransfer | undefined;
  /** The time of the request, and the milliseconds until the answer began, by the clock `WaitingTime.total`. */
  requestedAt = 0;
  latency: number | undefined;
  /** As `latency`, in `performance.now()`. */
  delay = 0;
  /** When its answer began, in `performance.now()`. */
  answeredAt: number | undefined;
  /** Whether RangeReader has requested another range, because this segment is almost complete. */
  endsSoon = false;
  ended = false;
  failure: UnpackError | undefined;
  dropped = false;
  /** Whether the transfer waits for `resume`. */
  paused = false;
  /** Number of bytes that have arrived, and number of these that were not taken yet. */
  received = 0;
  ready = 0;
  #range: Range;
  readonly #createdAt = performance.now();
  readonly #buffers: SpareBuffers;
  readonly #reader: SegmentReader;
  readonly #fillings: Filling[] = [];

  constructor(range: Range, buffers: SpareBuffers, reader: SegmentReader) {
    this.#range = range;
    this.#buffers = buffers;
    this.#reader = reader;
  }

  get range(): Range {
    return this.#range;
  }

  /** Offset in the blob of the next byte. */
  get position(): number {
    return this.#range.from + this.received;
  }

  get answered(): boolean {
    return this.answeredAt !== undefined;
  }

  /** Whether the answer has begun, or the request has failed. */
  get settled(): boolean {
    return this.answered || this.failure !== undefined;
  }

  /** @param from offset of the first byte of the answer; default: the offset that was requested */
  answer(from = this.#range.from): void {
    if (this.answered) throw new Error('a segment was answered twice');
    this.#range = { from, to: this.#range.to };
    this.answeredAt = performance.now();
    this.delay = this.answeredAt - this.#createdAt;
    this.#reader.arrived(0);
  }

  /** Memory for the next bytes. */
  buffer(): Buffer {
    let last = this.#fillings.at(-1);
    if (last === undefined || last.filled === SEGMENT_BUFFER) {
      last = { bytes: this.#buffers.take(), filled: 0, taken: 0 };
      this.#fillings.push(last);
    }
    return last.bytes.subarray(last.filled);
  }

  /** Bytes of the last buffer were filled. @returns false to pause the transfer until `resume` */
  filled(count: number): boolean {
    const last = this.#fillings.at(-1);
    if (last !== undefined) last.filled += count;
    this.received += count;
    this.ready += count;
    this.paused = !this.#reader.arrived(count);
    return !this.paused;
  }

  resume(): void {
    this.paused = false;
    this.transfer?.resume();
  }

  /** The answer is complete. It is possibly shorter than the range. */
  end(): void {
    if (this.ended) return;
    this.ended = true;
    this.#reader.finished();
  }

  fail(failure: UnpackError): void {
    if (this.dropped) return;
    this.failure = failure;
    this.#reader.finished();
  }

  /**
   * Shortens the segment to end before `to`, and discards the bytes after that. These bytes must not have been taken
   * yet.
   * @returns the number of discarded bytes
   */
  truncate(to: number): number {
    const excess = this.position - to;
    this.#range = { from: this.#range.from, to };
    for (let left = excess; left > 0; ) {
      const last = this.#fillings.findLast(({ filled, taken }) => filled > taken);
      if (last === undefined) throw new Error('bytes that were taken cannot be discarded');
      const count = Math.min(left, last.filled - last.taken);
      last.filled -= count;
      left -= count;
    }
    this.received -= excess;
    this.ready -= excess;
    this.transfer?.cancel();
    for (let last = this.#fillings.at(-1); last?.filled === 0; last = this.#fillings.at(-1)) {
      this.#fillings.pop();
      this.#buffers.give(last.bytes);
    }
    this.end();
    return excess;
  }

  /** The next bytes that have arrived, valid until the next call. */
  take(): Buffer | undefined {
    for (;;) {
      const [first] = this.#fillings;
      if (first === undefined) return undefined;
      if (first.taken < first.filled) {
        const chunk = first.bytes.subarray(first.taken, first.filled);
        first.taken = first.filled;
        this.ready -= chunk.length;
        return chunk;
      }
      // the transfer can still write into this buffer
      if (first.filled < SEGMENT_BUFFER && !this.ended) return undefined;
      this.#fillings.shift();
      this.#buffers.give(first.bytes);
    }
  }

  /** Cancels the transfer and returns the buffers. */
  drop(): void {
    this.dropped = true;
    this.transfer?.cancel();
    for (const { bytes } of this.#fillings.splice(0)) this.#buffers.give(bytes);
  }
}
