/** What must be ended or removed when this process ends, whatever way. */
const cleanups: (() => void)[] = [];

process.once('exit', () => {
  // the last first: a daemon ends before the folder that it works in goes
  for (const cleanup of cleanups.reverse()) {
    try {
      cleanup();
    } catch (error) {
      process.stderr.write(`cleaning up: ${error instanceof Error ? error.message : error}\n`);
    }
  }
});

/** @param cleanup synchronous, and harmless when there is nothing left to do */
export function atExit(cleanup: () => void): void {
  cleanups.push(cleanup);
}
