import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { bytesText } from '../../src/queue/text.ts';
import type { Machine } from '../machine.ts';
import type { ScenarioResult } from '../scenarios/scenario.ts';
import { scenarioMarkdown } from './table.ts';

export interface Report {
  readonly machine: Machine;
  readonly quick: boolean;
  readonly rounds: number;
  readonly results: readonly ScenarioResult[];
}

/** Everything that was measured, as `results.json`, `results.md` and plots. */
export async function writeReport(folder: string, report: Report): Promise<void> {
  await mkdir(folder, { recursive: true });
  const at = new Date().toISOString();
  await writeFile(join(folder, 'results.json'), `${JSON.stringify({ version: 1, at, ...report }, rounded, 1)}\n`);
  await writeFile(join(folder, 'results.md'), reportMarkdown(report, at));
}

export function reportMarkdown({ machine, rounds, results }: Report, at: string): string {
  const place = `${machine.processors} × ${machine.processor}, ${bytesText(machine.memoryBytes)}, ${machine.system}, Linux ${machine.kernel}, Node ${machine.node}`;
  return [
    `Measured ${at.slice(0, 10)} at commit ${machine.commit} on ${place}.`,
    `Everybody ran in turn, ${rounds} round${rounds === 1 ? '' : 's'} after a warm-up; medians; a ratio is the median of the rounds’ ratios.`,
    '',
    ...results.map(scenarioMarkdown),
  ].join('\n');
}

/** Figures to four places: more are noise and make the file long. */
function rounded(_key: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
}
