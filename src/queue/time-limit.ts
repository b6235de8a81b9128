import { abortError } from '../errors.ts';

/** The longest time that setTimeout takes, in milliseconds: 24.8 days. What is longer it takes for 1 ms. */
const LONGEST = 2 ** 31 - 1;

/**
 * Calls `work` after so many milliseconds, however many they are; Infinity: never. It is not about the clock on the wall,
 * which may jump.
 * @returns what keeps it from being called
 */
export function after(milliseconds: number, work: () => void): () => void {
  const end = performance.now() + milliseconds;
  let timer: NodeJS.Timeout;
  const wait = (): void => {
    const left = Math.max(0, end - performance.now());
    timer = left > LONGEST ? setTimeout(wait, LONGEST) : setTimeout(work, left);
  };
  wait();
  return () => clearTimeout(timer);
}

/** Milliseconds that aborted work gets to unwind before its job is given up anyway. */
const UNWIND_LIMIT = 30_000;

/** What the work comes to, or the abort's reason when the work has not ended 30 s after it was asked to. */
export async function unwinding<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
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
