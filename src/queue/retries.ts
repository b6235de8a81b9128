import { type BackoffOptions, type JobsOptions, UnrecoverableError } from 'bullmq';
import type { Config } from '../config.ts';
import { FAILURE_CODES, type FailureCode, type UnpackError } from '../errors.ts';
import { type Failure, failedReason } from './failure.ts';

/** How often a job is tried and how long it waits in between. */
export type RetrySettings = Pick<Config, 'UNPACK_ATTEMPTS' | 'UNPACK_BACKOFF'>;

/** Name of this project's backoff among BullMQ's strategies. */
export const BACKOFF_TYPE = 'unpack';
/** Longest wait before an attempt, in milliseconds. */
const MAX_BACKOFF = 10 * 60_000;

/**
 * Milliseconds to wait after the attempt `made` (counted from 1) has failed: the base, doubled each time, at most ten
 * minutes, of which a random half is taken off, so that jobs that failed together do not come back together.
 */
export function backoffDelay(made: number, base: number, random: () => number = Math.random): number {
  const full = Math.min(base * 2 ** (made - 1), MAX_BACKOFF);
  return Math.round(full * (1 - random() / 2));
}

/**
 * Fills in what the producer left open, on the worker's copy of the job only. BullMQ's clients write 0 attempts for
 * none given; a backoff that BullMQ would not know makes it throw while it fails the job, so that one is replaced too.
 */
export function settleAttempts(opts: JobsOptions, settings: RetrySettings): void {
  if (!isCount(opts.attempts)) opts.attempts = settings.UNPACK_ATTEMPTS;
  if (!isKnownBackoff(opts.backoff)) opts.backoff = { type: BACKOFF_TYPE, delay: settings.UNPACK_BACKOFF };
}

function isCount(attempts: unknown): boolean {
  return typeof attempts === 'number' && Number.isInteger(attempts) && attempts > 0;
}

function isKnownBackoff(backoff: number | BackoffOptions | undefined): boolean {
  if (typeof backoff === 'number') return Number.isFinite(backoff);
  if (typeof backoff !== 'object' || backoff === null) return false;
  return (backoff.type === 'fixed' || backoff.type === 'exponential') && Number.isFinite(backoff.delay);
}

/**
 * Whether another attempt can help: never, always, or, for damaged downloads, when no earlier attempt ended in one
 * (FAILURE_CODES has the rule of each code).
 */
export function isRetryable(code: FailureCode, earlier: readonly Failure[]): boolean {
  const rule = FAILURE_CODES[code];
  if (rule === 'once') return !earlier.some((failure) => FAILURE_CODES[failure.code] === 'once');
  return rule === 'always';
}

/**
 * The error that BullMQ stores. Its stack is what the board shows under the reason: where the message says it all, that
 * is only the cause, and the place in the code where nobody foresaw the failure.
 */
export function thrownFor(failure: Failure, error: UnpackError): Error {
  const reason = failedReason(failure);
  const thrown = failure.retryable ? new Error(reason) : new UnrecoverableError(reason);
  const cause = error.cause instanceof Error ? error.cause : undefined;
  const head = `attempt ${failure.attempt} of ${failure.attempts}, ${failure.at}\n${reason}`;
  let more = '';
  if (error.code === 'INTERNAL') more = `${cause?.stack ?? error.stack ?? ''}\n`;
  else if (cause !== undefined && !error.message.includes(cause.message))
    more = `caused by ${cause.name}: ${cause.message}\n`;
  thrown.stack = `${head}\n${more}`;
  return thrown;
}
