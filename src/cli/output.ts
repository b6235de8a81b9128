/** Columns of a terminal that does not know its size. */
const DEFAULT_WIDTH = 80;

/**
 * The output of a command. The result goes to stdout: text for a person, or one JSON document for a program (`--json`).
 * Progress and messages go to stderr, so that a pipe gets only the result.
 */
export class Output {
  /** Whether stdout gets one JSON document and nothing else. */
  readonly json: boolean;
  /** Whether a terminal shows the output, so that lines can be overwritten. */
  readonly live: boolean;
  /** Columns of the terminal that shows stdout; `undefined` for a pipe or a file, whose lines may have any length. */
  readonly width: number | undefined;
  readonly #colors: boolean;

  constructor(json: boolean) {
    this.json = json;
    this.live = !json && process.stdout.isTTY === true && process.stderr.isTTY === true && process.env.TERM !== 'dumb';
    this.width = process.stdout.isTTY === true ? process.stdout.columns || DEFAULT_WIDTH : undefined;
    this.#colors = process.stdout.isTTY === true && (process.env.NO_COLOR ?? '') === '' && process.env.TERM !== 'dumb';
  }

  /** Prints a line on stdout; nothing with `--json`. */
  line(text = ''): void {
    if (!this.json) process.stdout.write(`${text}\n`);
  }

  /** Prints the result: `document` with `--json`, else the lines of `text`. In one call, which for 2,000 lines saves 10 ms. */
  result(document: unknown, text: () => readonly string[]): void {
    if (this.json) process.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
    else
      process.stdout.write(
        text()
          .map((line) => `${line}\n`)
          .join(''),
      );
  }

  /** Prints bytes on stdout as they are. */
  bytes(content: Uint8Array): void {
    process.stdout.write(content);
  }

  /** Prints a message on stderr. */
  note(text: string): void {
    process.stderr.write(`${text}\n`);
  }

  /**
   * Waits until the readers have read everything, because output that is not in the pipe yet (it holds 64 KiB) is lost when the
   * process exits. There is no time limit, because a reader can be slow (less). The wait stops when the reader closes the pipe
   * or `signal` is aborted.
   */
  async flushed(signal: AbortSignal): Promise<void> {
    await Promise.all([process.stdout, process.stderr].map((stream) => drained(stream, signal)));
  }

  readonly bold = (text: string) => this.#paint(text, 1, 22);
  readonly dim = (text: string) => this.#paint(text, 2, 22);
  readonly red = (text: string) => this.#paint(text, 31, 39);
  readonly green = (text: string) => this.#paint(text, 32, 39);
  readonly yellow = (text: string) => this.#paint(text, 33, 39);

  #paint(text: string, on: number, off: number): string {
    return this.#colors ? `\u001b[${on}m${text}\u001b[${off}m` : text;
  }
}

function drained(stream: NodeJS.WriteStream, signal: AbortSignal): Promise<void> | undefined {
  if (stream.writableLength === 0 || stream.destroyed || signal.aborted) return undefined;
  return new Promise((resolve) => {
    const done = (): void => resolve();
    signal.addEventListener('abort', done, { once: true });
    stream.once('close', done);
    stream.write('', done); // called after all earlier writes, also if they fail
  });
}

/** What `main` passes to every command. */
export interface Cli {
  /** Aborted by SIGINT and SIGTERM. The command cleans up and throws the reason of the signal. */
  readonly signal: AbortSignal;
  readonly out: Output;
}

/** Lines at the bottom of a terminal, on stderr, that are overwritten by each update. Without a terminal it prints nothing. */
export class LiveRegion {
  readonly #live: boolean;
  #height = 0;

  constructor(live: boolean) {
    this.#live = live;
  }

  /** The columns of the terminal. They can change. */
  get width(): number {
    return process.stderr.columns || DEFAULT_WIDTH;
  }

  draw(lines: readonly string[]): void {
    if (!this.#live) return;
    const { width } = this;
    // cut long lines: a wrapped line would take two rows, and the cursor would go up too few
    const height = Math.max(1, (process.stderr.rows || 24) - 1);
    const shown = lines.slice(0, height).map((line) => (line.length < width ? line : `${line.slice(0, width - 2)}…`));
    process.stderr.write(`${this.#up()}${shown.map((line) => `${line}\u001b[K\n`).join('')}\u001b[J`);
    this.#height = shown.length;
  }

  /** Removes the lines, so that the result takes their place. */
  clear(): void {
    if (!this.#live || this.#height === 0) return;
    process.stderr.write(`${this.#up()}\u001b[J`);
    this.#height = 0;
  }

  #up(): string {
    return this.#height === 0 ? '' : `\r\u001b[${this.#height}A`;
  }
}
