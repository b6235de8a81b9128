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
