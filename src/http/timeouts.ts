/** Tells when nothing has come for `limit` milliseconds, counting only the time between `arm` and `disarm`. */
export interface SilenceWatch {
  arm(): void;
  disarm(): void;
}

/**
 * This thread writes files synchronously, so a timer can be late by seconds while the bytes lie in the kernel's
 * buffer: Node runs the timers that are due before it reads its sockets. A due timer therefore lets the sockets have
 * their turn first, and only then believes in the silence.
 */
export function watchSilence(limit: number, onSilence: () => void): SilenceWatch {
  let timer: NodeJS.Timeout | undefined;
  let check: NodeJS.Immediate | undefined;
  const disarm = () => {
    clearTimeout(timer);
    clearImmediate(check);
  };
  return {
    disarm,
    arm() {
      disarm();
      const since = performance.now();
      const due = () => {
        // the loop's clock stands still during synchronous work, so that a timer set after it is due too early
        const left = limit - (performance.now() - since);
        if (left > 0) timer = setTimeout(due, left);
        else check = setImmediate(onSilence); // an immediate runs after the sockets have been read
      };
      timer = setTimeout(due, limit);
    },
  };
}

/** What a connection must bring at least: so many bytes a second, over so many milliseconds of waiting for it. */
export interface MinimumSpeed {
  readonly bytesPerSecond: number;
  readonly over: number;
}

/** Tells when too few bytes come, counting only the time between `arm` and `disarm`. */
export interface SpeedWatch extends SilenceWatch {
  came(bytes: number): void;
  /** Counting begins anew: with another connection. */
  again(): void;
}

/** Parts of the time that is looked at. One in which the thread was busy with something else counts as no more than a part. */
const TICKS = 30;

/**
 * A read may wait while its thread writes files synchronously, and the bytes lie in the kernel's buffer. Time is therefore
 * counted in ticks: a thread that stands still for longer than one has waited for one.
 */
export function watchSpeed(minimum: MinimumSpeed | undefined, onSlow: (sentence: string) => void): SpeedWatch {
  if (minimum === undefined || minimum.bytesPerSecond === 0) {
    return { arm() {}, disarm() {}, came() {}, again() {} };
  }
  const { bytesPerSecond, over } = minimum;
  const tick = over / TICKS;
  const least = (bytesPerSecond * over) / 1000;
  let waited = 0;
  let bytes = 0;
  let since: number | undefined;
  let timer: NodeJS.Timeout | undefined;
  let check: NodeJS.Immediate | undefined;
  const again = () => {
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
    const came = bytes;
    again();
    if (came < least) onSlow(`${came} bytes came in ${over / 1000} s, which is too slow for a connection to be kept`);
  };
  const due = () => {
    // the sockets have their turn before anything is believed, as for silence
    check = setImmediate(() => {
      count();
      timer = setTimeout(due, tick);
      judge();
    });
  };
  return {
    again,
    came(more) {
      bytes += more;
    },
    arm() {
      since = performance.now();
      timer = setTimeout(due, tick);
    },
    disarm() {
      clearTimeout(timer);
      clearImmediate(check);
      count();
      since = undefined;
      judge();
    },
  };
}
