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
