import { abortError } from '../errors.ts';

/** Time limits of any length, and the time limit for aborted work to settle. Processor, worker and `wait` use them. */

/** Maximum delay of setTimeout, in milliseconds (24.8 days). setTimeout runs a function with a longer delay after 1 ms. */
const MAX_TIMER = 2 ** 31 - 1;

/**
 * Calls `work` after any number of milliseconds; never for Infinity. Changes of the wall clock have no effect.
 * @returns a function that cancels the call
 */
export function after(milliseconds: number, work: () => void): () => void {
  const end = performance.now() + milliseconds;
  let timer: NodeJS.Timeout;
  const wait = (): void => {
    const left = Math.max(0, end - performance.now());
    timer = left > MAX_TIMER ? setTimeout(wait, MAX_TIMER) : setTimeout(work, left);
  };
  wait();
  return () => clearTimeout(timer);
}

/** Time limit in milliseconds for aborted work to settle. */
const UNWIND_LIMIT = 30_000;

/** Waits for work that `signal` aborts. @throws the abort's error if the work does not settle within 30 s after the abort */
export async function endOrAbandon<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort = () => {};
  const tooLate = new Promise<never>((_, reject) => {
    onAbort = () => {
      timer = setTimeout(() => reject(abortError(signal)), UNWIND_LIMIT);
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  }
}
