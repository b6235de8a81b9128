/**
 * Lines at the bottom of a terminal that are drawn over, on stderr. Where nobody watches, nothing is drawn.
 */
export class LiveRegion {
  readonly #live: boolean;
  #height = 0;

  constructor(live: boolean) {
    this.#live = live;
  }

  draw(lines: readonly string[]): void {
    if (!this.#live) return;
    const width = process.stderr.columns || 80;
    // a wrapped line would make the count of lines to go up wrong
    const height = Math.max(1, (process.stderr.rows || 24) - 1);
    const shown = lines.slice(0, height).map((line) => (line.length < width ? line : `${line.slice(0, width - 2)}…`));
    process.stderr.write(`${this.#up()}${shown.map((line) => `${line}\u001b[K\n`).join('')}\u001b[J`);
    this.#height = shown.length;
  }

  /** Removes what was drawn, so that a result may take its place. */
  clear(): void {
    if (!this.#live || this.#height === 0) return;
    process.stderr.write(`${this.#up()}\u001b[J`);
    this.#height = 0;
  }

  #up(): string {
    return this.#height === 0 ? '' : `\r\u001b[${this.#height}A`;
  }
}
