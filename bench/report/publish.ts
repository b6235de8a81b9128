import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Row } from '../race.ts';
import { medianSeconds } from '../scenarios/goals.ts';
import type { ScenarioResult } from '../scenarios/scenario.ts';
import { medianRatio } from '../statistics.ts';
import { markdownTable, secondsText } from './table.ts';
import { placeText, type Report } from './write.ts';

const FOLDER = 'bench/results/published';
const SECTION = /(?<=<!-- bench -->\n)[\s\S]*(?=<!-- \/bench -->)/;
const PICTURES = [
  ['races.svg', 'seconds of everybody, scenario by scenario'],
  ['timeline.svg', 'one unpacking, layer by layer'],
  ['growth.svg', 'seconds against size'],
] as const;

/** Keeps these results in the repository and shows them in the README, between its marks. */
export async function publish(packageRoot: string, results: string, report: Report): Promise<void> {
  const folder = join(packageRoot, FOLDER);
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await cp(results, folder, { recursive: true });
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

function readmeSection(report: Report, pictures: readonly string[]): string {
  const { rounds, machine } = report;
  return [
    `On ${placeText(machine)}, at commit ${machine.commit}; everybody in turn, medians of ${rounds} rounds:`,
    '',
    ...summary(report.results),
    '',
    ...pictures.flatMap((picture) => [picture, '']),
    `Every figure, who could not run and why: [${FOLDER}/results.md](${FOLDER}/results.md).`,
    '',
  ].join('\n');
}

/** One line a scenario: ours, and everybody else as so many times our time. */
function summary(results: readonly ScenarioResult[]): string[] {
  const races = results.filter(({ rows }) => rows.some(isOurs) && rows.some((row) => !isOurs(row)));
  const rows = races.map((result) => {
    const ours = result.rows.filter(isOurs);
    const best = ours.reduce((one, other) => (medianSeconds(other) < medianSeconds(one) ? other : one));
    const others = result.rows.filter((row) => !isOurs(row));
    return [
      `${result.name}: ${result.title}`,
      ours.map((row) => `${row.name} ${secondsText(medianSeconds(row))} s`).join('; '),
      others.map((row) => `${row.name} ${timesText(row, best)}`).join('; '),
    ];
  });
  return markdownTable(['scenario', 'seconds', `others, as times the fastest of ours`], rows);
}

const isOurs = ({ name }: Row): boolean => name.startsWith('unpackd');

function timesText(row: Row, ours: Row): string {
  const seconds = (one: Row) => one.samples.map((sample) => sample.seconds);
  return `${medianRatio(seconds(row), seconds(ours)).toFixed(2)}`;
}
