/** Collects bytes into pieces of one size, and passes them on in order. */
export class Pieces {
  readonly #write: (bytes: Buffer) => void;
  #buffer: Buffer;
  #used = 0;
  #passed = 0;

  /** @param size of a piece in bytes */
  constructor(write: (bytes: Buffer) => void, size: number) {
    this.#write = write;
    this.#buffer = Buffer.alloc(size);
  }

  /** Number of bytes so far. */
  get position(): number {
    return this.#passed + this.#used;
  }

  /**
   * Room for the next bytes, in one piece and filled with zeros.
   * @returns the buffer, until the next call, and where the room begins in it
   */
  reserve(bytes: number): { readonly buffer: Buffer; readonly at: number } {
    if (this.#used + bytes > this.#buffer.length) this.#flush();
    if (bytes > this.#buffer.length) this.#buffer = Buffer.alloc(bytes);
    const at = this.#used;
    this.#buffer.fill(0, at, at + bytes);
    this.#used += bytes;
    return { buffer: this.#buffer, at };
  }

  append(bytes: Buffer): void {
    const { buffer, at } = this.reserve(bytes.length);
    bytes.copy(buffer, at);
  }

  /** Adds zeros up to a position. */
  fillTo(position: number): void {
    while (this.position < position) this.reserve(Math.min(position - this.position, this.#buffer.length));
  }

  end(): void {
    this.#flush();
  }

  #flush(): void {
    if (this.#used === 0) return;
    this.#write(this.#buffer.subarray(0, this.#used));
    this.#passed += this.#used;
    this.#used = 0;
  }
}
