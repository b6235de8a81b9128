import type { Output } from './output.ts';

/** What every command is given by `main`. */
export interface Cli {
  /** Aborted by SIGINT and SIGTERM; a command then cleans up and lets the abort's reason through. */
  readonly signal: AbortSignal;
  readonly out: Output;
}
