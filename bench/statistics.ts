/** The medians of the benchmark's tables and goals. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/**
 * How many times as long `other` took as `one`: the median of the ratios of all rounds, because a disturbance affects
 * both runs of a round. A round in which only one of them ran does not count.
 */
export function medianRatio(other: readonly number[], one: readonly number[]): number {
  const common = Math.min(other.length, one.length);
  return median(one.slice(0, common).map((value, round) => (other[round] ?? Number.NaN) / value));
}
