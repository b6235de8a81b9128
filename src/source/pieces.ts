/** Bytes of one piece: few enough to stay in the processor's cache until they are digested and inflated. */
export const PIECE = 256 * 1024;

/** Pieces that are kept for the next download. */
const KEPT = 16;

/**
 * Memory that a thread downloads into, used again and again: fresh memory costs a page fault for every 4 KiB. The piece
 * that was given back last is taken first, since it is in the cache.
 */
export class Pieces {
  readonly #free: Buffer[] = [];

  take(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(PIECE);
  }

  give(piece: Buffer): void {
    this.#free.push(piece);
  }

  /** Leaves memory that a large download had needed to the garbage collector. */
  trim(): void {
    this.#free.length = Math.min(this.#free.length, KEPT);
  }
}
