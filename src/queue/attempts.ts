import type { BackoffOptions, JobsOptions } from 'bullmq';
import type { Config } from '../config.ts';

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
