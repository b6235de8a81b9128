import type { RaceResult, Row } from '../race.ts';
import { median, medianRatio } from '../statistics.ts';
import type { GoalResult } from './scenario.ts';

/** `ours` must be `times` as fast as each row whose name begins with `theirs`; with `exact`, whose name is `theirs`. */
export function timesAsFast(
  result: RaceResult,
  ours: string,
  theirs: string,
  times: number,
  { exact = false } = {},
): GoalResult {
  const ratios = compared(result, ours, (name) => (exact ? name === theirs : name.startsWith(theirs)));
  const goal = `${ours}: ${times === 1 ? 'no slower than' : `${times} times as fast as`} ${theirs}`;
  if (ratios === undefined) return { goal, measured: `${theirs} or ${ours} did not run`, met: undefined };
  const least = Math.min(...ratios);
  return { goal, measured: `${least.toFixed(2)} times`, met: least >= times };
}

/** `ours` must be faster than all other programs of the race, except those named. */
export function aheadOfAll(result: RaceResult, ours: string, except: readonly string[] = []): GoalResult[] {
  const others = result.rows.filter(
    ({ name }) => !name.startsWith('unpackd') && !except.some((one) => name.startsWith(one)),
  );
  return others.map(({ name }) => {
    const [ratio = Number.NaN] = compared(result, ours, (other) => other === name) ?? [];
    return { goal: `${ours}: ahead of ${name}`, measured: `${ratio.toFixed(2)} times as fast`, met: ratio > 1 };
  });
}

/** The memory of the row `name` must stay below `limit` bytes. */
export function memoryBelow(result: RaceResult, name: string, limit: number): GoalResult {
  const row = rowOf(result, name);
  const goal = `${name}: at most ${Math.round(limit / 1e6)} MB of memory`;
  if (row === undefined) return { goal, measured: `${name} did not run`, met: undefined };
  const peak = Math.max(...row.samples.map(({ peakBytes }) => peakBytes));
  return { goal, measured: `${Math.round(peak / 1e6)} MB`, met: peak <= limit };
}

export function rowOf(result: RaceResult, name: string): Row | undefined {
  return result.rows.find((row) => row.name === name);
}

export function medianSeconds(row: Row | undefined): number {
  return median(row?.samples.map(({ seconds }) => seconds) ?? []);
}

function compared(result: RaceResult, ours: string, isTheirs: (name: string) => boolean): number[] | undefined {
  const one = rowOf(result, ours);
  const others = result.rows.filter(({ name }) => isTheirs(name) && name !== ours);
  if (one === undefined || others.length === 0) return undefined;
  const seconds = (row: Row) => row.samples.map((sample) => sample.seconds);
  return others.map((other) => medianRatio(seconds(other), seconds(one)));
}
