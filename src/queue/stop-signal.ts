import { constants } from 'node:os';
import type { Logger } from './log.ts';

/** Aborts at the first SIGTERM or SIGINT; the second one ends the process there and then. */
export function stopSignal(log: Logger): AbortSignal {
  const stop = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(128 + constants.signals[name]);
      log.info({ signal: name }, `${name}: stopping; send it again to stop at once`);
      stop.abort();
    });
  }
  return stop.signal;
}
