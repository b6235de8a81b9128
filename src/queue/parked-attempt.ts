import { type ChainId, isDigest, shortDigest } from '../oci/digest.ts';
import { holderName, type LockWait } from '../rootfs/lock-waits.ts';
import { durationText } from '../units.ts';
import { isSameAttempt } from './progress.ts';
import type { Progress, WaitingFor } from './progress-schema.ts';

/** Milliseconds for which a job gives its slot back: the first time, doubled each time, at most. */
const FIRST_DELAY = 2000;
const LAST_DELAY = 60_000;

/** What the attempt `number` has waited for when it gave its slot back; `undefined`: it has not. */
export function waitedBefore(earlier: Progress | undefined, number: number): WaitingFor | undefined {
  return isSameAttempt(earlier, number) ? earlier.waiting : undefined;
}

/** The layer that it has waited for. */
export function layerOf({ chainId }: WaitingFor): ChainId | undefined {
  return isDigest(chainId) ? (chainId as string as ChainId) : undefined;
}

/**
 * When the attempt began that is taken now, by the clock on the wall. What it waited for another process counts. That it
 * was due and no worker took it does not: a queue without workers for a night fails no job.
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
  /** Milliseconds that one attempt may take. */
  readonly limit: number;
}

/** What goes onto the job's progress, and for how many milliseconds it gives its slot back. */
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

/** Whether it is still the same process that it waits for, for the same layer. */
export function isSameWait(before: WaitingFor, { chainId, holder }: LockWait): boolean {
  return before.chainId === chainId && before.holder?.pid === holder?.pid && before.holder?.since === holder?.since;
}

/** `waits for layer sha256:…: process 12 on … has locked it since …`. */
export function waitingSentence({ chainId, holder }: Pick<WaitingFor, 'chainId' | 'holder'>): string {
  const since = holder === undefined ? '' : ` since ${holder.since}`;
  return `waits for the layer of chain ID ${shortDigest(chainId)}: ${holderName(holder)} has locked it${since}`;
}

/** What a timed-out attempt has waited for, and what a person can do about it. */
export function waitedSentence(waited: WaitingFor, now: number): string {
  const time = durationText(Math.max(0, now - waited.since));
  return `for ${time} it ${waitingSentence(waited).replace(/^waits/, 'waited')}; is that process stopped? Let it go on (kill -CONT), or end it`;
}
