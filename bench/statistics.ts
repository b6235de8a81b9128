export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/**
 * How many times as long `other` took as `one`: the median over the rounds, because what disturbs the machine disturbs
 * those that ran one after the other. @param other as many as `one`, of the same rounds
 */
export function medianRatio(other: readonly number[], one: readonly number[]): number {
  return median(one.map((value, round) => (other[round] ?? Number.NaN) / value));
}
