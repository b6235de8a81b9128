import type { UnpackError } from '../errors.ts';
import type { SpareBuffers } from '../system/spare-buffers.ts';

/** Bytes of one piece: few enough to stay in the processor's cache until they are digested and inflated. */
export const PIECE = 256 * 1024;

/** `to` is the first byte that no longer belongs to it. */
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
  /** It is there whole, or has failed. */
  over(): void;
}

interface Piece {
  readonly bytes: Buffer;
  filled: number;
  taken: number;
}

/** One range on its way: what has arrived and was not read. */
export class Segment {
  readonly range: Range;
  transfer: SegmentTransfer | undefined;
  /** Its answer has begun. */
  answered = false;
  ended = false;
  failure: UnpackError | undefined;
  /** Bytes that were not taken yet. */
  ready = 0;
  /** Reading goes on when it is told to. */
  stopped = false;
  readonly #memory: SpareBuffers;
  readonly #reader: SegmentReader;
  readonly #pieces: Piece[] = [];

  constructor(range: Range, memory: SpareBuffers, reader: SegmentReader) {
    this.range = range;
    this.#memory = memory;
    this.#reader = reader;
  }

  /** Its answer has begun, or will not. */
  get settled(): boolean {
    return this.answered || this.failure !== undefined;
  }

  answer(): void {
    this.answered = true;
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
    this.ready += count;
    this.stopped = !this.#reader.arrived(count);
    return !this.stopped;
  }

  resume(): void {
    this.stopped = false;
    this.transfer?.resume();
  }

  /** It is there whole. */
  end(): void {
    this.ended = true;
    this.#reader.over();
  }

  fail(failure: UnpackError): void {
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
    this.transfer?.cancel();
    for (const piece of this.#pieces.splice(0)) this.#memory.give(piece.bytes);
  }
}
