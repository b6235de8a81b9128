import { document, line, rect, text, ticks } from '../../src/charts/svg.ts';
import type { Row } from '../race.ts';
import type { ScenarioResult, Series } from '../scenarios/scenario.ts';
import { median } from '../statistics.ts';
import { secondsText } from './table.ts';

const WIDTH = 960;
const LEFT = 240;
const RIGHT = 110;
const ROW = 24;
const HEAD = 58;
const GAP = 26;
const INK = '#24292f';
const FAINT = '#6b7280';
const GRID = '#e7e9ed';
/** Colours: unpackd, the floor, the other programs. */
const OURS = '#3d85c6';
const FLOOR = '#9aa1ab';
const OTHERS = '#d9a15b';

/** Bars of the medians, with a line from the fastest to the slowest run. Each scenario is one block. */
export function racePlot(title: string, results: readonly ScenarioResult[]): string {
  const shown = results.filter(({ rows }) => rows.some(({ samples }) => samples.length > 0));
  const parts: string[] = [text(16, 26, title, { 'font-size': 16, 'font-weight': 600, fill: INK })];
  let top = 44;
  for (const result of shown) {
    const { lines, height } = block(result, top);
    parts.push(...lines);
    top += height + GAP;
  }
  return document(WIDTH, top, parts);
}

function block(result: ScenarioResult, top: number): { lines: string[]; height: number } {
  const rows = result.rows.filter(({ samples }) => samples.length > 0);
  const most = Math.max(...rows.flatMap(({ samples }) => samples.map(({ seconds }) => seconds)));
  const x = (seconds: number): number => LEFT + (seconds / most) * (WIDTH - LEFT - RIGHT);
  const first = top + HEAD - 22;
  const bottom = first + rows.length * ROW;
  const marks = ticks(most, 6);
  return {
    height: bottom - top + 20,
    lines: [
      text(16, top + 16, `${result.name}: ${result.title}`, { 'font-size': 13, 'font-weight': 600, fill: INK }),
      ...marks.flatMap((mark) => [
        line(x(mark), first - 4, x(mark), bottom, { stroke: GRID }),
        text(x(mark), bottom + 14, `${mark} s`, { 'text-anchor': 'middle', 'font-size': 10, fill: FAINT }),
      ]),
      ...rows.flatMap((row, index) => bar(row, first + index * ROW, x)),
    ],
  };
}

function bar({ name, samples }: Row, top: number, x: (seconds: number) => number): string[] {
  const seconds = samples.map((sample) => sample.seconds);
  const middle = median(seconds);
  const [least, most] = [Math.min(...seconds), Math.max(...seconds)];
  const center = top + ROW / 2;
  return [
    text(LEFT - 10, center + 4, name, { 'text-anchor': 'end', fill: INK }),
    rect(LEFT, top + 4, x(middle) - LEFT, ROW - 8, { fill: colorOf(name) }),
    line(x(least), center, x(most), center, { stroke: INK, 'stroke-opacity': 0.7 }),
    ...[least, most].map((end) => line(x(end), center - 3, x(end), center + 3, { stroke: INK, 'stroke-opacity': 0.7 })),
    text(x(most) + 8, center + 4, `${secondsText(middle)} s`, {
      fill: INK,
      'font-weight': name.startsWith('unpackd') ? 600 : 400,
    }),
  ];
}

function colorOf(name: string): string {
  if (name.startsWith('unpackd')) return OURS;
  return /^(floor|the disk|an empty|one connection)/.test(name) ? FLOOR : OTHERS;
}

const PANEL = 280;
const PANEL_HEIGHT = 220;

/** Seconds against size, both on logarithmic scales. A straight line at 45° is linear growth. */
export function growthPlot(title: string, series: readonly Series[]): string {
  const parts = [text(16, 26, title, { 'font-size': 16, 'font-weight': 600, fill: INK })];
  for (const [index, one] of series.entries()) parts.push(...panel(one, 70 + index * (PANEL + 70), 60));
  return document(70 + series.length * (PANEL + 70), 60 + PANEL_HEIGHT + 60, parts);
}

function panel({ title, unit, points }: Series, left: number, top: number): string[] {
  const usable = points.filter(({ seconds }) => Number.isFinite(seconds) && seconds > 0);
  const counts = usable.map(({ count }) => Math.log10(count));
  const times = usable.map(({ seconds }) => Math.log10(seconds));
  const [fromX, toX] = [Math.floor(Math.min(...counts)), Math.ceil(Math.max(...counts))];
  const [fromY, toY] = [
    Math.floor(Math.min(...times)),
    Math.max(Math.ceil(Math.max(...times)), Math.floor(Math.min(...times)) + 1),
  ];
  const x = (log: number): number => left + ((log - fromX) / Math.max(1, toX - fromX)) * PANEL;
  const y = (log: number): number => top + PANEL_HEIGHT - ((log - fromY) / (toY - fromY)) * PANEL_HEIGHT;
  const decades = (from: number, to: number): number[] =>
    Array.from({ length: to - from + 1 }, (_, step) => from + step);
  return [
    ...decades(fromX, toX).flatMap((log) => [
      line(x(log), top, x(log), top + PANEL_HEIGHT, { stroke: GRID }),
      text(x(log), top + PANEL_HEIGHT + 16, (10 ** log).toLocaleString('en-US'), {
        'text-anchor': 'middle',
        'font-size': 10,
        fill: FAINT,
      }),
    ]),
    ...decades(fromY, toY).flatMap((log) => [
      line(left, y(log), left + PANEL, y(log), { stroke: GRID }),
      text(left - 8, y(log) + 4, `${10 ** log} s`, { 'text-anchor': 'end', 'font-size': 10, fill: FAINT }),
    ]),
    ...usable.slice(1).map((point, index) => {
      const before = usable[index] ?? point;
      const [x1, y1] = [x(Math.log10(before.count)), y(Math.log10(before.seconds))];
      return line(x1, y1, x(Math.log10(point.count)), y(Math.log10(point.seconds)), {
        stroke: OURS,
        'stroke-width': 2,
      });
    }),
    ...usable.flatMap(({ count, seconds }, index) => [
      rect(x(Math.log10(count)) - 3, y(Math.log10(seconds)) - 3, 6, 6, { fill: OURS }),
      text(x(Math.log10(count)) + (index === 0 ? 4 : 0), y(Math.log10(seconds)) - 9, `${secondsText(seconds)} s`, {
        // the first label would overlap the axis
        'text-anchor': index === 0 ? 'start' : 'middle',
        'font-size': 11,
        fill: INK,
      }),
    ]),
    text(left + PANEL / 2, top + PANEL_HEIGHT + 36, `${title}: ${unit}`, { 'text-anchor': 'middle', fill: INK }),
  ];
}
