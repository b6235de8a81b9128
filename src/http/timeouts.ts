/** The two limits of a read from a connection: the longest time without bytes, and the lowest speed. RangeReader uses them. */

/** A timer that counts only the time between `start` and `stop`. */
export interface IdleTimer {
  start(): void;
  stop(): void;
}

/**
 * Calls `onTimeout` after `limit` milliseconds without bytes. The caller stops the timer when bytes arrive.
 *
 * This thread writes files synchronously, so the timer can be late by seconds while the bytes wait in the kernel's
 * buffer: Node runs due timers before it reads sockets. Therefore a due timer first lets Node read the sockets, and
 * reports the timeout only if the timer was not stopped in the meantime.
 */
export function idleTimer(limit: number, onTimeout: () => void): IdleTimer {
  let timer: NodeJS.Timeout | undefined;
  let check: NodeJS.Immediate | undefined;
  const stop = () => {
    clearTimeout(timer);
    clearImmediate(check);
  };
  return {
    stop,
    start() {
      stop();
      const since = performance.now();
      const due = () => {
        // the clock of the event loop stands still during synchronous work, so a timer that is set after such work is
        // due too early
        const left = limit - (performance.now() - since);
        if (left > 0) timer = setTimeout(due, left);
        else check = setImmediate(onTimeout); // an immediate runs after the sockets were read
      };
      timer = setTimeout(due, limit);
    },
  };
}

/** The lowest speed of a connection, as an average over `over` milliseconds of waiting. */
export interface MinimumSpeed {
  readonly bytesPerSecond: number;
  readonly over: number;
}

/** Measures the speed of a connection while a read waits for it: between `start` and `stop`. */
export interface SpeedTimer extends IdleTimer {
  received(bytes: number): void;
  /** Starts a new measurement, for another connection. */
  reset(): void;
}

/** Parts of the measured time. A longer pause of the thread counts as one part. */
const TICKS = 30;

/**
 * Calls `onSlow` with a sentence if the speed is below the minimum. A read can be pending while its thread writes files
 * synchronously and the bytes are in the kernel's buffer. Therefore the time is counted in ticks: if the thread is
 * blocked for longer than one tick, one tick counts.
 */
export function speedTimer(minimum: MinimumSpeed | undefined, onSlow: (sentence: string) => void): SpeedTimer {
  if (minimum === undefined || minimum.bytesPerSecond === 0) {
    return { start() {}, stop() {}, received() {}, reset() {} };
  }
  const { bytesPerSecond, over } = minimum;
  const tick = over / TICKS;
  const least = (bytesPerSecond * over) / 1000;
  let waited = 0;
  let bytes = 0;
  let since: number | undefined;
  let timer: NodeJS.Timeout | undefined;
  let check: NodeJS.Immediate | undefined;
  const reset = () => {
    waited = 0;
    bytes = 0;
  };
  const count = () => {
    if (since === undefined) return;
    const now = performance.now();
    waited += Math.min(now - since, tick);
    since = now;
  };
  const judge = () => {
    if (waited < over) return;
    const received = bytes;
    reset();
    if (received >= least) return;
    onSlow(`${received} bytes came in ${over / 1000} s, below the minimum speed (UNPACK_S3_MIN_SPEED)`);
  };
  const due = () => {
    // as in idleTimer: Node reads the sockets first
    check = setImmediate(() => {
      count();
      timer = setTimeout(due, tick);
      judge();
    });
  };
  return {
    reset,
    received(more) {
      bytes += more;
    },
    start() {
      since = performance.now();
      timer = setTimeout(due, tick);
    },
    stop() {
      clearTimeout(timer);
      clearImmediate(check);
      count();
      since = undefined;
      judge();
    },
  };
}
