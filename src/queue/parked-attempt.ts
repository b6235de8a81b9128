import { type ChainId, isDigest, shortDigest } from '../oci/digest.ts';
import type { LockWait } from '../rootfs/lock-waits.ts';
import { holderName } from '../snapshots/holder.ts';
import { durationText } from '../units.ts';
import type { Progress, WaitingFor } from './formats.ts';
import { isSameAttempt } from './progress.ts';

/**
 * An attempt that was parked because another process has locked a layer: how long the job waits, and what its progress and log
 * contain. The processor calls these functions.
 */

/** Milliseconds for which a job is parked: the first time, and at most. The time doubles each time. */
const FIRST_DELAY = 2000;
const LAST_DELAY = 60_000;

/** The lock that an earlier run of the attempt `number` waited for; `undefined` if it was not parked. */
export function waitedBefore(earlier: Progress | undefined, number: number): WaitingFor | undefined {
  return isSameAttempt(earlier, number) ? earlier.waiting : undefined;
}

/** The layer that the attempt waited for. */
export function layerOf({ chainId }: WaitingFor): ChainId | undefined {
  return isDigest(chainId) ? (chainId as string as ChainId) : undefined;
}

/**
 * The start of the attempt in milliseconds since 1970, for UNPACK_JOB_TIMEOUT. The wait for the lock counts. Time in which the
 * job was due but no worker took it does not count, so that jobs do not time out during a night without workers.
 */
export function startOf(waited: WaitingFor | undefined, now: number): number {
  if (waited === undefined) return now;
  const untaken = Math.max(0, now - waited.until);
  return Math.min(now, waited.started + untaken);
}

export interface WaitFacts {
  readonly wait: LockWait;
  readonly before: WaitingFor | undefined;
  readonly started: number;
  readonly place: number;
  /** Time limit in milliseconds for one attempt. */
  readonly limit: number;
}

/** How long to park the job, in milliseconds, and what to write on its progress. */
export function nextWait(
  { wait: { chainId, holder }, before, started, place, limit }: WaitFacts,
  now: number,
): { readonly waiting: WaitingFor; readonly delay: number } {
  const times = (before?.times ?? 0) + 1;
  const left = Math.max(0, started + limit - now);
  const delay = Math.min(FIRST_DELAY * 2 ** Math.min(times - 1, 20), LAST_DELAY, left);
  const since = before?.since ?? now;
  return {
    delay,
    waiting: { chainId, ...(holder === undefined ? {} : { holder }), started, since, until: now + delay, times, place },
  };
}

/** Whether the job still waits for the same layer and the same process. */
export function isSameWait(before: WaitingFor, { chainId, holder }: LockWait): boolean {
  return before.chainId === chainId && before.holder?.pid === holder?.pid && before.holder?.since === holder?.since;
}

/** `waits for layer sha256:…: process 12 on … has locked it since …`. */
export function waitingSentence({ chainId, holder }: Pick<WaitingFor, 'chainId' | 'holder'>): string {
  const since = holder === undefined ? '' : ` since ${holder.since}`;
  return `waits for the layer of chain ID ${shortDigest(chainId)}: ${holderName(holder)} has locked it${since}`;
}

/** What an attempt that timed out has waited for, and what to do. */
export function waitedSentence(waited: WaitingFor, now: number): string {
  const time = durationText(Math.max(0, now - waited.since));
  return `for ${time} it ${waitingSentence(waited).replace(/^waits/, 'waited')}; if that process is stopped, continue it (kill -CONT) or kill it`;
}
