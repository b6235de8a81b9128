import { setTimeout as sleep } from 'node:timers/promises';

/** Milliseconds. It only ends a test that hangs. */
const PATIENCE = 120_000;

/**
 * Polls until `look` finds something, and returns that.
 * @throws Error that names the condition, after two minutes
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
