import { setTimeout as sleep } from 'node:timers/promises';
import { abortError, type UnpackError } from '../errors.ts';

/** Pause in milliseconds before the first retry. The pause doubles each time, up to a maximum. */
const FIRST_DELAY = 200;
const LONGEST_DELAY = 10_000;

/**
 * Waits before retry number `attempt`, counted from 1. The pause grows exponentially. Half of it is random, so that the threads
 * of many workers do not return to a throttling bucket at the same time.
 * @throws UnpackError the reason of the signal
 */
export async function backOff(attempt: number, firstDelay = FIRST_DELAY, signal?: AbortSignal): Promise<void> {
  const longest = Math.min(LONGEST_DELAY, firstDelay * 2 ** (attempt - 1));
  try {
    await sleep(longest * (0.5 + Math.random() / 2), undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    throw signal?.aborted ? abortError(signal) : error;
  }
}

/** Adds the number of retries to the last error. */
export function gaveUp(error: UnpackError, retries: number): UnpackError {
  return retries === 0 ? error : error.with({}, `given up after ${retries} ${retries === 1 ? 'retry' : 'retries'}: `);
}
