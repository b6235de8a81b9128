/**
 * A pool of large buffers of one length, which a thread reuses. New memory costs a page fault for each 4 KiB; measured, a
 * thread that applies small layers would spend a tenth of its time on freeing buffers. The buffer that was given back last
 * is taken first, because it is still in the processor's cache. The content of a taken buffer is undefined.
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

  /** Gives a buffer back. After that, no thread must read or write the buffer. */
  give(buffer: Buffer): void {
    this.#spare.push(buffer);
  }

  /** Drops all but `kept` buffers. */
  trim(kept: number): void {
    this.#spare.length = Math.min(this.#spare.length, kept);
  }
}
