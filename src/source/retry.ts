import { setTimeout as sleep } from 'node:timers/promises';
import { abortError, type UnpackError } from '../errors.ts';

/** Milliseconds before the first further try; it doubles each time. */
export const FIRST_DELAY = 200;
const LONGEST_DELAY = 10_000;

/**
 * Waits before try `attempt` (the first further one is 1): exponentially longer, half of it random, so that the threads
 * of many workers do not come back to a throttling bucket all at once.
 * @throws UnpackError what the signal's reason says
 */
export async function backOff(attempt: number, firstDelay = FIRST_DELAY, signal?: AbortSignal): Promise<void> {
  const longest = Math.min(LONGEST_DELAY, firstDelay * 2 ** (attempt - 1));
  try {
    await sleep(longest * (0.5 + Math.random() / 2), undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    throw signal?.aborted ? abortError(signal) : error;
  }
}

/** The last failure, with how often it was tried, for a reader who wonders whether it was. */
export function gaveUp(error: UnpackError, tries: number): UnpackError {
  return tries === 0 ? error : error.with({}, `given up after ${tries} further ${tries === 1 ? 'try' : 'tries'}: `);
}
