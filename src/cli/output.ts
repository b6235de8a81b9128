/**
 * Where a command writes. Results go to stdout: text for a person, or one JSON document for a program (`--json`).
 * Progress and sentences about the way there go to stderr, so that a pipe gets the result alone.
 */
export class Output {
  /** One JSON document on stdout, and nothing else there. */
  readonly json: boolean;
  /** Whether a person watches, so that lines may be drawn over. */
  readonly live: boolean;
  readonly #colors: boolean;

  constructor(json: boolean) {
    this.json = json;
    this.live = !json && process.stdout.isTTY === true && process.stderr.isTTY === true && process.env.TERM !== 'dumb';
    this.#colors = process.stdout.isTTY === true && (process.env.NO_COLOR ?? '') === '' && process.env.TERM !== 'dumb';
  }

  /** Text on stdout; silent with `--json`. */
  line(text = ''): void {
    if (!this.json) process.stdout.write(`${text}\n`);
  }

  /** The result: `document` with `--json`, else the lines that `text` gives. */
  result(document: unknown, text: () => readonly string[]): void {
    if (this.json) process.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
    else for (const line of text()) this.line(line);
  }

  /** A sentence on stderr. */
  note(text: string): void {
    process.stderr.write(`${text}\n`);
  }

  /**
   * Waits until the readers have taken everything. A pipe holds 64 KiB, and what is beyond that is lost when the process
   * ends. A reader may take its time (less), so only its end or `signal` end the wait.
   */
  async flushed(signal: AbortSignal): Promise<void> {
    await Promise.all([process.stdout, process.stderr].map((stream) => taken(stream, signal)));
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

function taken(stream: NodeJS.WriteStream, signal: AbortSignal): Promise<void> | undefined {
  if (stream.writableLength === 0 || stream.destroyed || signal.aborted) return undefined;
  return new Promise((resolve) => {
    const done = (): void => resolve();
    signal.addEventListener('abort', done, { once: true });
    stream.once('close', done);
    stream.write('', done); // called after all before it, or when that has failed
  });
}

/** What every command is given by `main`. */
export interface Cli {
  /** Aborted by SIGINT and SIGTERM; a command then cleans up and lets the abort's reason through. */
  readonly signal: AbortSignal;
  readonly out: Output;
}

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

export type Cell = string | number;

/** Rows under their titles; the columns named in `right` are aligned there. */
export function columns(
  titles: readonly string[],
  rows: readonly (readonly Cell[])[],
  right: readonly string[] = [],
): string[] {
  const lines = [titles, ...rows];
  const widths = titles.map((_, column) => Math.max(...lines.map((line) => String(line[column] ?? '').length)));
  return lines.map((line) =>
    titles
      .map((title, column) => {
        const text = String(line[column] ?? '');
        const width = widths[column] ?? 0;
        return right.includes(title) ? text.padStart(width) : text.padEnd(width);
      })
      .join('  ')
      .trimEnd(),
  );
}
