import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { timelineSvg } from '../../src/charts/timeline.ts';
import { bytesText } from '../../src/units.ts';
import type { Machine } from '../machine.ts';
import type { ScenarioResult } from '../scenarios/scenario.ts';
import { growthPlot, racePlot } from './plot.ts';
import { scenarioMarkdown } from './table.ts';

export interface Report {
  readonly machine: Machine;
  readonly quick: boolean;
  readonly rounds: number;
  readonly results: readonly ScenarioResult[];
}

/** Writes all figures as `results.json`, `results.md` and plots. */
export async function writeReport(folder: string, report: Report): Promise<void> {
  await mkdir(folder, { recursive: true });
  const at = new Date().toISOString();
  await writeFile(join(folder, 'results.json'), `${JSON.stringify({ version: 1, at, ...report }, rounded, 1)}\n`);
  await writeFile(join(folder, 'results.md'), reportMarkdown(report, at));
  const place = `${report.machine.processors} × ${report.machine.processor}`;
  const races = report.results.filter(({ reference }) => reference !== '');
  if (races.length > 0)
    await writeFile(join(folder, 'races.svg'), racePlot(`Seconds, less is better (${place})`, races));
  const series = report.results.flatMap((result) => result.series ?? []);
  const drawn = report.results.find(({ timeline }) => timeline !== undefined)?.timeline;
  if (drawn !== undefined) await writeFile(join(folder, 'timeline.svg'), timelineSvg(drawn));
  if (series.length > 0) await writeFile(join(folder, 'growth.svg'), growthPlot('Growth with size', series));
}

/** Reads the report in a folder, if there is one. */
export async function readReport(folder: string): Promise<Report | undefined> {
  try {
    const report = JSON.parse(await readFile(join(folder, 'results.json'), 'utf8')) as Report & { version: number };
    return report.version === 1 ? report : undefined;
  } catch {
    return undefined; // there is none, or it cannot be read
  }
}

export function placeText(machine: Machine): string {
  const { processors, processor, memoryBytes, system, kernel, node } = machine;
  return `${processors} × ${processor}, ${bytesText(memoryBytes)} of memory, ${system}, Linux ${kernel}, Node ${node}`;
}

export function reportMarkdown({ machine, rounds, results }: Report, at: string): string {
  return [
    `Measured ${at.slice(0, 10)} at commit ${machine.commit} on ${placeText(machine)}.`,
    `All programs ran in turn, ${rounds} round${rounds === 1 ? '' : 's'} after a warm-up. The figures are medians; a ratio is the median of the ratios of the rounds.`,
    '',
    ...results.map((result) => scenarioMarkdown(result, machine.commit)),
  ].join('\n');
}

/** Four significant digits. More are noise. */
function rounded(_key: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
}
