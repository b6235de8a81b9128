import { type Attributes, AXIS, chart, element, FAINT, GRID, line, rect, text, ticks } from './svg.ts';

/** Numbers against time, for the board: columns for what was counted in each interval, lines for what was measured. */

export interface Series {
  readonly name: string;
  readonly color: string;
  /** Oldest first. `undefined`: not known. */
  readonly values: readonly (number | undefined)[];
}

export interface TimeAxis {
  /** Minutes from the first to the last value; the last is now. */
  readonly minutes: number;
  /** What the numbers are, such as `jobs`. */
  readonly unit: string;
}

const WIDTH = 900;
const HEIGHT = 200;
const LEFT = 56;
const RIGHT = 12;
const TOP = 28;
const BOTTOM = 26;
const PLOT = { width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM } as const;
/** Pixels, approximately: a character of the legend. */
const CHARACTER = 6.6;

/** Stacked columns, the first series at the bottom. */
export function columnChart(series: readonly Series[], axis: TimeAxis): string {
  const count = Math.max(1, ...series.map(({ values }) => values.length));
  const sums = Array.from({ length: count }, (_, at) => series.reduce((sum, { values }) => sum + (values[at] ?? 0), 0));
  const most = Math.max(1, ...sums);
  const width = PLOT.width / count;
  const columns = sums.flatMap((_, at) => {
    let below = 0;
    return series.flatMap(({ values, color, name }) => {
      const value = values[at] ?? 0;
      if (value <= 0) return [];
      const height = (value / most) * PLOT.height;
      below += height;
      const place = { x: LEFT + at * width + width * 0.1, y: TOP + PLOT.height - below };
      const title = element('title', {}, `${value.toLocaleString('en-US')} ${name}, ${agoText(axis, count, at)}`);
      return [element('rect', { ...place, width: width * 0.8, height: Math.max(1, height), fill: color }, title)];
    });
  });
  return frame(series, axis, most, columns);
}

/** A line for each series. Unknown values leave a gap. */
export function lineChart(series: readonly Series[], axis: TimeAxis): string {
  const known = series.flatMap(({ values }) => values.filter((value) => value !== undefined));
  const most = known.reduce((max, value) => Math.max(max, value), 1);
  const lines = series.flatMap(({ values, color }) => {
    const step = PLOT.width / Math.max(1, values.length - 1);
    const points = values.map((value, at) =>
      value === undefined ? undefined : ([LEFT + at * step, TOP + PLOT.height * (1 - value / most)] as const),
    );
    const path = points
      .map(
        (point, at) =>
          point && `${points[at - 1] === undefined ? 'M' : 'L'}${point[0].toFixed(1)} ${point[1].toFixed(1)}`,
      )
      .join('');
    // a value between two gaps has no line
    const alone = points.filter((_, at) => points[at - 1] === undefined && points[at + 1] === undefined);
    return [
      ...(path === '' ? [] : [element('path', { d: path, fill: 'none', stroke: color, 'stroke-width': 2 })]),
      ...alone.flatMap((point) =>
        point ? [element('circle', { cx: point[0], cy: point[1], r: 3, fill: color })] : [],
      ),
    ];
  });
  return frame(series, axis, most, lines);
}

function frame(series: readonly Series[], axis: TimeAxis, most: number, content: readonly string[]): string {
  const y = (value: number) => TOP + PLOT.height * (1 - value / most);
  const small: Attributes = { ...FAINT, 'font-size': 12 };
  let at = LEFT;
  const legend = series.flatMap(({ name, color }) => {
    const parts = [rect(at, 6, 11, 11, { fill: color }), text(at + 16, 16, name, small)];
    at += 16 + name.length * CHARACTER + 18;
    return parts;
  });
  const steps = [0, 0.25, 0.5, 0.75, 1];
  return chart(WIDTH, HEIGHT, `${series.map(({ name }) => name).join(', ')} over the last ${spanText(axis.minutes)}`, [
    ...legend,
    text(WIDTH - RIGHT, 16, axis.unit, { ...small, 'text-anchor': 'end' }),
    // whole numbers only, because these are counts
    ...ticks(most, 4)
      .filter(Number.isInteger)
      .flatMap((value) => [
        line(LEFT, y(value), WIDTH - RIGHT, y(value), GRID),
        text(LEFT - 8, y(value) + 4, value.toLocaleString('en-US'), { ...small, 'text-anchor': 'end' }),
      ]),
    ...content,
    line(LEFT, TOP + PLOT.height, WIDTH - RIGHT, TOP + PLOT.height, AXIS),
    ...steps.map((share) =>
      text(LEFT + share * PLOT.width, HEIGHT - 8, share === 1 ? 'now' : `${spanText(axis.minutes * (1 - share))} ago`, {
        ...small,
        'text-anchor': share === 0 ? 'start' : share === 1 ? 'end' : 'middle',
      }),
    ),
  ]);
}

function agoText({ minutes }: TimeAxis, count: number, at: number): string {
  const [from, to] = [(count - at) * (minutes / count), (count - at - 1) * (minutes / count)];
  return to < 1 ? `in the last ${spanText(from)}` : `${spanText(from)} to ${spanText(to)} ago`;
}

function spanText(minutes: number): string {
  if (minutes < 120) return `${Math.round(minutes)} min`;
  const hours = minutes / 60;
  if (hours < 48) return `${Math.round(hours * 10) / 10} h`;
  return `${Math.round((hours / 24) * 10) / 10} d`;
}
