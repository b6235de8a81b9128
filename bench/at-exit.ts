/** Functions that end child processes and remove folders when this process ends, in whatever way. */
const cleanups: (() => void)[] = [];

process.once('exit', () => {
  // the last one first: a daemon must end before its folder is removed
  for (const cleanup of cleanups.reverse()) {
    try {
      cleanup();
    } catch (error) {
      process.stderr.write(`cleaning up: ${error instanceof Error ? error.message : error}\n`);
    }
  }
});

/** @param cleanup is synchronous, and does nothing if there is nothing left to do */
export function atExit(cleanup: () => void): void {
  cleanups.push(cleanup);
}
