/**
 * Large buffers of one length, with any content, that a thread uses again and again: fresh memory costs a page fault for
 * every 4 KiB, and a thread that applies small layers would spend a tenth of its time on getting rid of the old. What was
 * given back last is taken first, since it is in the processor's cache.
 */
export class SpareBuffers {
  readonly #length: number;
  readonly #spare: Buffer[] = [];

  /** @param length in bytes */
  constructor(length: number) {
    this.#length = length;
  }

  take(): Buffer {
    return this.#spare.pop() ?? Buffer.allocUnsafeSlow(this.#length);
  }

  /** Once nobody reads or writes it any more, other threads included. */
  give(buffer: Buffer): void {
    this.#spare.push(buffer);
  }

  /** Leaves all but so many to the garbage collector. */
  trim(kept: number): void {
    this.#spare.length = Math.min(this.#spare.length, kept);
  }
}
