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
