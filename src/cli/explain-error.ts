import { CommanderError } from 'commander';
import { ListenError } from '../board/listen.ts';
import { UnpackError } from '../errors.ts';
import { JobNotFoundError, QueueUnavailableError, UnreadableJobError, WaitTimeoutError } from '../queue/errors.ts';
import { maskSecrets } from '../secrets.ts';
import { SnapshotError } from '../snapshots/snapshotter.ts';

/**
 * Defines the errors that commands throw. Maps every thrown value to a code, a message and an exit status. `main.ts`
 * prints them.
 */

/** Codes that only the command line has, in addition to the failure codes of jobs. */
export type CliCode =
  | 'USAGE'
  | 'INVALID_SETTING'
  | 'JOB_NOT_FOUND'
  | 'JOB_UNREADABLE'
  | 'REDIS_UNAVAILABLE'
  | 'ADDRESS_UNAVAILABLE'
  | 'SNAPSHOT_NOT_FOUND'
  | 'SNAPSHOT_EXISTS'
  | 'SNAPSHOT_IN_USE'
  | 'IMAGE_PINNED'
  | 'MOUNTS_UNSEEN'
  | 'DEMO_FAILED';

/** The failure of a command. `message` is one sentence for stderr. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly code: CliCode;

  constructor(code: CliCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

export interface ExplainedError {
  readonly code: string;
  /** One line. */
  readonly message: string;
  readonly exitStatus: number;
}

const SNAPSHOT_CODES = {
  NotFound: 'SNAPSHOT_NOT_FOUND',
  AlreadyExists: 'SNAPSHOT_EXISTS',
  FailedPrecondition: 'SNAPSHOT_IN_USE',
  InvalidArgument: 'USAGE',
} as const satisfies Record<SnapshotError['kind'], CliCode>;

/** The code, the message and the exit status for any thrown value. */
export function explain(thrown: unknown): ExplainedError {
  if (thrown instanceof CliError) return failure(thrown.code, thrown.message);
  if (thrown instanceof UnpackError) return failure(thrown.code, thrown.message);
  if (thrown instanceof JobNotFoundError) return failure('JOB_NOT_FOUND', thrown.message);
  if (thrown instanceof UnreadableJobError) return failure('JOB_UNREADABLE', thrown.message);
  if (thrown instanceof WaitTimeoutError) return failure('TIMED_OUT', thrown.message);
  if (thrown instanceof QueueUnavailableError) {
    const hint = / is not available: /.test(thrown.message) ? ' (check REDIS_URL, and run unpackd doctor)' : '';
    return failure('REDIS_UNAVAILABLE', `${thrown.message}${hint}`);
  }
  // SocketError by name, because importing it loads native code
  if (thrown instanceof ListenError || (thrown instanceof Error && thrown.name === 'SocketError')) {
    return failure('ADDRESS_UNAVAILABLE', thrown.message);
  }
  if (thrown instanceof SnapshotError) return failure(SNAPSHOT_CODES[thrown.kind], thrown.message);
  if (thrown instanceof CommanderError && thrown.code === 'commander.help') {
    return failure('USAGE', 'no command was given: --help lists the commands');
  }
  if (thrown instanceof CommanderError) return failure('USAGE', usageSentence(thrown.message));
  if (thrown instanceof Error) {
    // by name, because importing the settings would slow down the start of every command
    if (thrown.name === 'ConfigError') return failure('INVALID_SETTING', thrown.message);
    return failure('INTERNAL', thrown.message === '' ? thrown.name : thrown.message);
  }
  return failure('INTERNAL', String(thrown));
}

function failure(code: string, message: string): ExplainedError {
  const misused = code === 'USAGE' || code === 'INVALID_SETTING';
  const sentence = maskSecrets(message)
    .trim()
    .replace(/\s*\n\s*/g, '; ');
  return { code, message: sentence, exitStatus: misused ? EXIT_USAGE : EXIT_FAILED };
}

/** A message of commander, `error: unknown option '--x=value'` with a suggestion below it, as one sentence without the value. */
function usageSentence(message: string): string {
  return message
    .replace(/^error: /, '')
    .replace(/^(unknown option '[^'=]*)=[\s\S]*'/, "$1'")
    .replace(/\n\(Did you mean (.*)\?\)/, ': did you mean $1?');
}
