import { bytesText } from '../../src/units.ts';
import type { Row } from '../race.ts';
import type { ScenarioResult, Work } from '../scenarios/scenario.ts';
import { median, medianRatio } from '../statistics.ts';

const TITLES = ['who', 'seconds', 'from–to', 'ratio', 'MB/s', 'entries/s', 'CPU s', 'memory', 'written'];

/** One scenario as Markdown: table, goals, programs that did not run with the reason, notes. */
export function scenarioMarkdown(result: ScenarioResult, commit = result.commit): string {
  const { work, title, rows, absent, goals, notes = [] } = result;
  const size = work === undefined ? [] : [sizeOf(work), ''];
  const table =
    rows.length === 0
      ? []
      : [
          ...markdownTable(
            TITLES,
            rows.map((row) => cells(row, result)),
          ),
          '',
        ];
  const marks = goals.map(
    ({ goal, measured, met }) => `- ${met === undefined ? 'open' : met ? 'met' : 'MISSED'}: ${goal}: ${measured}`,
  );
  return [
    `### ${result.name}: ${title}`,
    '',
    ...(result.commit === commit || result.commit === undefined ? [] : [`Measured at commit ${result.commit}.`, '']),
    ...size,
    ...table,
    ...(marks.length === 0 ? [] : ['Goals:', ...marks, '']),
    ...(absent.length === 0 ? [] : ['Not run:', ...absent.map(({ name, reason }) => `- ${name}: ${reason}`), '']),
    ...notes.map((note) => `${note}\n`),
  ].join('\n');
}

function sizeOf({ layers, blobBytes, tarBytes, entries }: Work): string {
  const count = `${layers} layer${layers === 1 ? '' : 's'}`;
  return `${count}, ${bytesText(blobBytes)} of blobs, ${bytesText(tarBytes)} of tar, ${entries.toLocaleString('en-US')} entries`;
}

function cells(row: Row, { rows, work, reference }: ScenarioResult): string[] {
  const seconds = row.samples.map((sample) => sample.seconds);
  const middle = median(seconds);
  const base = rows.find(({ name }) => name === reference)?.samples.map((sample) => sample.seconds);
  const ratio = base === undefined || row.name === reference ? '' : `${medianRatio(seconds, base).toFixed(2)} ×`;
  const memory = Math.max(...row.samples.map(({ peakBytes }) => peakBytes));
  return [
    row.name,
    secondsText(middle),
    `${secondsText(Math.min(...seconds))}–${secondsText(Math.max(...seconds))}`,
    ratio,
    work === undefined ? '' : whole(work.tarBytes / 1e6 / middle),
    work === undefined ? '' : whole(work.entries / middle),
    median(row.samples.map(({ cpuSeconds }) => cpuSeconds)).toFixed(2),
    bytesText(memory),
    bytesText(median(row.samples.map(({ writtenBytes }) => writtenBytes))),
  ];
}

/** A table that is aligned for the terminal too. The first column is text, the others are numbers. */
export function markdownTable(titles: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = titles.map((title, column) =>
    Math.max(3, title.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const line = (row: readonly string[]) =>
    `| ${widths.map((width, column) => (column === 0 ? (row[column] ?? '').padEnd(width) : (row[column] ?? '').padStart(width))).join(' | ')} |`;
  const rule = `|${widths.map((width, column) => (column === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`;
  return [line(titles), rule, ...rows.map(line)];
}

export function secondsText(seconds: number): string {
  return seconds.toFixed(seconds < 10 ? 2 : 1);
}

const whole = (value: number): string => Math.round(value).toLocaleString('en-US');
