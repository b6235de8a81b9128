import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
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
  ['races.svg', 'seconds of every program, scenario by scenario'],
  ['timeline.svg', 'one image, layer by layer'],
  ['growth.svg', 'seconds against size'],
] as const;

/**
 * Writes the results into bench/results/published, which is in the repository, and from there into docs/performance.md and
 * README.md, between their marks. Scenarios that were not run this time keep their earlier figures, if those are of the
 * same machine and the same number of rounds; the commit of each is in results.md.
 */
export async function publish(packageRoot: string, latest: Report): Promise<void> {
  const folder = join(packageRoot, FOLDER);
  const report = merged(await readReport(folder), latest);
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await writeReport(folder, report);
  for (const [page, section] of Object.entries(await publishedSections(packageRoot))) {
    const path = join(packageRoot, page);
    const text = withSection(await readFile(path, 'utf8'), section);
    if (text === undefined) throw new Error(`${page} has no marks <!-- bench --> and <!-- /bench -->`);
    await writeFile(path, text);
  }
}

/** What stands between the marks of each page, made from bench/results/published. */
export async function publishedSections(packageRoot: string): Promise<Readonly<Record<string, string>>> {
  const folder = join(packageRoot, FOLDER);
  const report = await readReport(folder);
  if (report === undefined) throw new Error(`${FOLDER} has no results`);
  const files = await readdir(folder);
  const pictures = PICTURES.filter(([name]) => files.includes(name)).map(
    ([name, meaning]) => `![${meaning}](../${FOLDER}/${name})`,
  );
  return {
    'docs/performance.md': performanceSection(report, pictures),
    'README.md': readmeSection(report),
  };
}

/** The page with `section` between its marks; `undefined` for a page without marks. */
export function withSection(page: string, section: string): string | undefined {
  return SECTION.test(page) ? page.replace(SECTION, () => section) : undefined;
}

/** Both reports as one, in the order of the scenarios. Where both have a scenario, the later figures count. */
export function merged(earlier: Report | undefined, latest: Report): Report {
  if (earlier === undefined || earlier.rounds !== latest.rounds || earlier.quick !== latest.quick) return latest;
  if (placeText(earlier.machine) !== placeText(latest.machine)) return latest;
  const known = new Map([...earlier.results, ...latest.results].map((result) => [result.name, result]));
  const results = SCENARIOS.flatMap(({ name }) => known.get(name) ?? []);
  return { ...latest, results };
}

function performanceSection(report: Report, pictures: readonly string[]): string {
  const { rounds, machine, results } = report;
  const missed = goalLines(results, false);
  return [
    `Measured on ${placeText(machine)}. All programs ran in turn; each figure is the median of ${rounds} rounds.`,
    '',
    ...summary(results),
    '',
    `**Missed goals: ${missed.length} of ${results.flatMap(({ goals }) => goals).length}**`,
    '',
    ...missed.map((line) => `- **MISSED** ${line}`),
    '',
    'Goals that were met in the scenarios that are not in the table:',
    '',
    ...goalLines(withoutContainerd(results), true).map((line) => `- met: ${line}`),
    '',
    ...pictures.flatMap((picture) => [picture, '']),
    `All figures, all goals, and the programs that could not run with the reason: [results.md](../${FOLDER}/results.md).`,
    '',
  ].join('\n');
}

function goalLines(results: readonly ScenarioResult[], wasMet: boolean): string[] {
  return results.flatMap(({ name, goals }) =>
    goals.filter(({ met }) => met === wasMet).map(({ goal, measured }) => `${name}: ${goal}: ${measured}`),
  );
}

/** The scenario whose figures the README draws. */
const DRAWN = 'pull';
/** Characters of the longest bar. */
const BAR = 40;

function readmeSection({ machine, results }: Report): string {
  const drawn = results.find(({ name }) => name === DRAWN);
  const goals = results.flatMap((result) => result.goals).length;
  const missed = goalLines(results, false).length;
  return [
    '```text',
    ...(drawn === undefined ? [] : [`seconds: ${drawn.title}`, ...chart(drawn)]),
    '```',
    '',
    `${machine.processors} × ${machine.processor}. \`unpackd\` starts a new process, \`worker\` has served before. unpackd misses ${missed} of its ${goals} goals; [docs/performance.md](docs/performance.md) names them.`,
    '',
  ].join('\n');
}

/** A bar for each program, the fastest first. */
function chart({ rows }: ScenarioResult): string[] {
  const sorted = rows.toSorted((a, b) => medianSeconds(a) - medianSeconds(b));
  const longest = Math.max(...sorted.map(medianSeconds));
  const width = Math.max(...sorted.map(({ name }) => name.length));
  return sorted.map((row) => {
    const seconds = medianSeconds(row);
    const bar = '█'.repeat(Math.max(1, Math.round((seconds / longest) * BAR)));
    return `${row.name.padEnd(width)}  ${bar} ${secondsText(seconds)}`;
  });
}

const COLD = 'unpackd, new process';
const WARM = 'unpackd, resident';

/** Seconds, one line for each scenario. In brackets: the time as a multiple of the time of our fastest. */
function summary(results: readonly ScenarioResult[]): string[] {
  const races = results.filter(hasContainerd);
  const names = [...new Set(races.flatMap(({ rows }) => rows.map(columnOf)))];
  const columns = [COLD, WARM, ...names.filter((name) => name !== COLD && name !== WARM)];
  const rows = races.map((result) => [result.title, ...columns.map((column) => cell(result, column))]);
  return markdownTable(['seconds', ...columns], rows);
}

const hasContainerd = ({ rows }: ScenarioResult) => rows.some(({ name }) => name.startsWith('containerd'));

function withoutContainerd(results: readonly ScenarioResult[]): ScenarioResult[] {
  return results.filter((result) => !hasContainerd(result));
}

/** Several ways of one program share a column, which shows the fastest of them. */
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
