import type { Queue } from 'bullmq';

/** How many jobs completed or failed in each interval, from the counts that BullMQ keeps for each minute of a week. */

const MINUTE = 60_000;

/**
 * @param minutes of the whole time, which ends now; a multiple of `bins`
 * @returns oldest first
 */
export async function finishedCounts(
  queue: Queue,
  state: 'completed' | 'failed',
  minutes: number,
  bins: number,
  now: number,
): Promise<number[]> {
  const { meta, data } = await queue.getMetrics(state, 0, minutes - 1);
  const found = new Array<number>(bins).fill(0);
  const thisMinute = Math.floor(now / MINUTE);
  // BullMQ writes the count of a minute when the first job of a later one finishes: `data` begins with the minute before that
  // job, and the jobs since then are the difference of two totals
  const lastMinute = Math.floor(meta.prevTS / MINUTE);
  const add = (minute: number, count: number) => {
    const bin = bins - 1 - Math.floor(((thisMinute - minute) * bins) / minutes);
    if (bin >= 0 && bin < bins) found[bin] = (found[bin] ?? 0) + count;
  };
  if (meta.prevTS > 0) {
    add(lastMinute, meta.count - meta.prevCount);
    for (const [index, count] of data.entries()) add(lastMinute - 1 - index, count);
  }
  return found;
}
