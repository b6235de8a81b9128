import { setTimeout as sleep } from 'node:timers/promises';

/** Milliseconds that only end a hang, on a machine however busy. */
const PATIENCE = 120_000;

/**
 * Waits for a condition, and gives what it has found.
 * @throws Error that says what has not come true, after two minutes
 */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const deadline = performance.now() + PATIENCE;
  while (true) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`not within ${PATIENCE / 1000} s: ${what}`);
    await sleep(10);
  }
}
