import { type BackoffOptions, type JobsOptions, UnrecoverableError } from 'bullmq';
import type { Config } from '../config.ts';
import { FAILURE_CODES, type FailureCode, UnpackError } from '../errors.ts';
import { failedReason, failureOf } from './failure.ts';
import type { Failure } from './formats.ts';

/**
 * Decides whether a failed attempt is retried, how often and when, and which failures do not count as an attempt. The
 * processor calls it. FAILURE_CODES (src/errors.ts) has the rule of each code.
 */

export type RetrySettings = Pick<Config, 'UNPACK_ATTEMPTS' | 'UNPACK_BACKOFF'>;

/** Name of this project's backoff among the backoff strategies of BullMQ. */
export const BACKOFF_TYPE = 'unpack';
/** Maximum time in milliseconds between a failed attempt and the next attempt. */
const MAX_BACKOFF = 10 * 60_000;

/** A job with more stalls fails with STALLED, because it probably kills its workers. */
const MAX_STALLS = 5;
/**
 * How often a job can go back because of a faulty store without counting an attempt. After that the job itself is probably the
 * cause.
 */
export const MAX_STORE_FAULTS = 3;

/**
 * Milliseconds to wait after the failed attempt `made` (counted from 1). The wait starts at `base`, doubles each time and is
 * at most ten minutes. Up to half of it is subtracted at random, so that jobs that failed together do not retry together.
 */
export function backoffDelay(made: number, base: number, random: () => number = Math.random): number {
  const full = Math.min(base * 2 ** (made - 1), MAX_BACKOFF);
  return Math.round(full * (1 - random() / 2));
}

/**
 * Sets the attempts and the backoff if the producer has set none; it changes only this worker's copy of the job. Some clients
 * of BullMQ write 0 attempts for "not set". A backoff that BullMQ does not know is replaced, too, because BullMQ would throw
 * when it fails the job.
 */
export function fillRetryOptions(opts: JobsOptions, settings: RetrySettings): void {
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
 * Checks how often the workers of a job stopped responding.
 * @returns a sentence for the log if a worker stopped responding
 * @throws UnpackError STALLED after more than MAX_STALLS stalls
 */
export function checkStalls(stalls: number): string | undefined {
  if (stalls <= 0) return undefined;
  if (stalls <= MAX_STALLS) {
    return `taken over from a worker that stopped responding (${stalls} of at most ${MAX_STALLS} times)`;
  }
  throw new UnpackError(
    'STALLED',
    `the job's worker stopped responding ${stalls} times (killed, or out of memory?), so the job is not tried again: repair the cause, then retry the job by hand`,
  );
}

/** Whether a faulty store of the worker is a possible cause. A disk that hangs reports no error, so the attempt times out. */
export function maybeStoreFault({ code }: UnpackError): boolean {
  return code === 'STORE_FULL' || code === 'STORE_FAILED' || code === 'TIMED_OUT';
}

/** The failure of an attempt, and whether the job is retried. */
export interface Decision {
  readonly failure: Failure;
  readonly isLast: boolean;
}

/** @param earlier the failures of the earlier attempts, also of those before a retry by hand */
export function decideRetry(
  error: UnpackError,
  { number, attempts }: { readonly number: number; readonly attempts: number },
  earlier: readonly Failure[],
): Decision {
  // STALLED is retried only by hand
  const retryable = error.code !== 'STALLED' && isRetryable(error.code, failuresBefore(earlier, number));
  const failure = failureOf(error, { attempt: number, attempts }, retryable);
  return { failure, isLast: !retryable || number >= attempts };
}

/**
 * The failures of the attempts before `number` since the job was added or was last retried by hand, which counts its attempts
 * anew.
 */
export function failuresBefore(failures: readonly Failure[], number: number): readonly Failure[] {
  let first = failures.length;
  for (let later = number; first > 0; first -= 1) {
    const { attempt } = failures[first - 1] ?? { attempt: later };
    if (attempt >= later) break;
    later = attempt;
  }
  return failures.slice(first);
}

/** Whether another attempt can succeed. All codes with the rule `once` (damaged downloads) share one retry. */
function isRetryable(code: FailureCode, earlier: readonly Failure[]): boolean {
  const rule = FAILURE_CODES[code];
  if (rule === 'once') return !earlier.some((failure) => FAILURE_CODES[failure.code] === 'once');
  return rule === 'always';
}

/**
 * The error to throw to BullMQ: an Error is retried while attempts are left, an UnrecoverableError is not. The board shows the
 * stack of the error below the reason, so the stack has only what the reason lacks: the cause, and for INTERNAL the place in
 * the code.
 */
export function errorForBullMQ(failure: Failure, error: UnpackError): Error {
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
