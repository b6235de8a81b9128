export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/**
 * How many times as long `other` took as `one`: the median over the rounds, because what disturbs the machine disturbs
 * those that ran one after the other. Rounds that only one of them was in do not count.
 */
export function medianRatio(other: readonly number[], one: readonly number[]): number {
  const common = Math.min(other.length, one.length);
  return median(one.slice(0, common).map((value, round) => (other[round] ?? Number.NaN) / value));
}
