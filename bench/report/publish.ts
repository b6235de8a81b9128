import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Row } from '../race.ts';
import { SCENARIOS } from '../scenarios/all.ts';
import { medianSeconds } from '../scenarios/goals.ts';
import type { ScenarioResult } from '../scenarios/scenario.ts';
import { medianRatio } from '../statistics.ts';
import { markdownTable, secondsText } from './table.ts';
import { placeText, type Report, readReport, writeReport } from './write.ts';

const FOLDER = 'bench/results/published';
const SECTION = /(?<=<!-- bench -->\n)[\s\S]*(?=<!-- \/bench -->)/;
const PICTURES = [
  ['races.svg', 'seconds of everybody, scenario by scenario'],
  ['timeline.svg', 'one unpacking, layer by layer'],
  ['growth.svg', 'seconds against size'],
] as const;

/**
 * Keeps these results in the repository and shows them in the README, between its marks. Scenarios that were not run this
 * time keep the figures that they had, if those are of the same machine and as many rounds; each tells its commit.
 */
export async function publish(packageRoot: string, latest: Report): Promise<void> {
  const folder = join(packageRoot, FOLDER);
  const report = merged(await readReport(folder), latest);
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await writeReport(folder, report);
  const pictures: string[] = [];
  for (const [name, meaning] of PICTURES) {
    const there = await readFile(join(folder, name)).then(
      () => true,
      () => false,
    );
    if (there) pictures.push(`![${meaning}](${FOLDER}/${name})`);
  }
  const path = join(packageRoot, 'README.md');
  const readme = await readFile(path, 'utf8');
  if (!SECTION.test(readme)) throw new Error('README.md has no marks <!-- bench --> and <!-- /bench -->');
  await writeFile(
    path,
    readme.replace(SECTION, () => readmeSection(report, pictures)),
  );
}

/** Both, the later figures where both have a scenario, in the order in which scenarios are run. */
export function merged(earlier: Report | undefined, latest: Report): Report {
  if (earlier === undefined || earlier.rounds !== latest.rounds || earlier.quick !== latest.quick) return latest;
  if (placeText(earlier.machine) !== placeText(latest.machine)) return latest;
  const known = new Map([...earlier.results, ...latest.results].map((result) => [result.name, result]));
  const results = SCENARIOS.flatMap(({ name }) => known.get(name) ?? []);
  return { ...latest, results };
}

function readmeSection(report: Report, pictures: readonly string[]): string {
  const { rounds, machine } = report;
  return [
    `On ${placeText(machine)}; everybody in turn, medians of ${rounds} rounds:`,
    '',
    ...summary(report.results),
    '',
    ...pictures.flatMap((picture) => [picture, '']),
    `Every figure, who could not run and why: [${FOLDER}/results.md](${FOLDER}/results.md).`,
    '',
  ].join('\n');
}

const COLD = 'unpackd, new process';
const WARM = 'unpackd, resident';

/** Seconds, a line a scenario; behind those of others, how many times our fastest that is. */
function summary(results: readonly ScenarioResult[]): string[] {
  const races = results.filter(({ rows }) => rows.some(({ name }) => name.startsWith('containerd')));
  const names = [...new Set(races.flatMap(({ rows }) => rows.map(columnOf)))];
  const columns = [COLD, WARM, ...names.filter((name) => name !== COLD && name !== WARM)];
  const rows = races.map((result) => [result.title, ...columns.map((column) => cell(result, column))]);
  const others = results.filter((result) => !races.includes(result)).flatMap(({ goals }) => goals);
  return [
    ...markdownTable(['seconds', ...columns], rows),
    '',
    ...others.map(({ goal, measured }) => `- ${goal}: ${measured}`),
  ];
}

/** Who did the same in several ways has one column, and the fastest of them in it. */
function columnOf({ name }: Row): string {
  if (!name.startsWith('unpackd')) return name.replace(/[,:].*/, '');
  return /resident|worker/.test(name) ? WARM : COLD;
}

function cell({ rows }: ScenarioResult, column: string): string {
  const mine = fastest(rows.filter((row) => columnOf(row) === column));
  if (mine === undefined) return '';
  const ours = fastest(rows.filter(({ name }) => name.startsWith('unpackd')));
  const seconds = secondsText(medianSeconds(mine));
  if (ours === undefined || mine.name.startsWith('unpackd')) return seconds;
  const all = (row: Row) => row.samples.map((sample) => sample.seconds);
  return `${seconds} (${medianRatio(all(mine), all(ours)).toFixed(1)} ×)`;
}

function fastest(rows: readonly Row[]): Row | undefined {
  return rows.toSorted((a, b) => medianSeconds(a) - medianSeconds(b))[0];
}
