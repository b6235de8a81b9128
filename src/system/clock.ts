import { libc, systemError } from './libc.ts';

/** The time of the machine in nanoseconds. containerd compares the times of a snapshot with its own clock, which has them. */
export interface Moment {
  /** Milliseconds since 1970, as `Date.now()`. */
  readonly milliseconds: number;
  /** The nanoseconds beyond the milliseconds, 0 to 999,999. */
  readonly nanoseconds: number;
}

const clockGettime = libc.func('int clock_gettime(int, void *)');
const CLOCK_REALTIME = 0;
/** `struct timespec` on 64 bit machines: seconds and nanoseconds, 8 bytes each. */
const TIMESPEC = 16;

/** @throws system errors */
export function now(): Moment {
  const time = Buffer.alloc(TIMESPEC);
  if (clockGettime(CLOCK_REALTIME, time) !== 0) throw systemError('clock_gettime');
  const nanoseconds = Number(time.readBigInt64LE(8));
  return {
    milliseconds: Number(time.readBigInt64LE(0)) * 1000 + Math.floor(nanoseconds / 1_000_000),
    nanoseconds: nanoseconds % 1_000_000,
  };
}
