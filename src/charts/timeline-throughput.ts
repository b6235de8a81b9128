import type { UnpackResult } from '../queue/formats.ts';
import { element, FAINT, GRID, line, text, ticks } from './svg.ts';

type Timeline = NonNullable<UnpackResult['images'][number]['layers'][number]['timeline']>;

export interface Panel {
  readonly x: (milliseconds: number) => number;
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly height: number;
}

const BINS = 90;
const FETCHED = '#3d85c6';
const UNPACKED = '#3f9f6b';

/** The chart below the timeline: megabytes a second of all layers together, fetched and unpacked. `timeline.ts` adds it. */
export function throughputPanel(timelines: readonly Timeline[], end: number, panel: Panel): string[] {
  const [FETCHED_AT, UNPACKED_AT] = [1, 2] as const;
  const fetched = rates(timelines, end, FETCHED_AT);
  const unpacked = rates(timelines, end, UNPACKED_AT);
  const most = Math.max(1, ...fetched, ...unpacked);
  const bottom = panel.top + panel.height;
  const y = (rate: number) => bottom - (rate / most) * panel.height;
  const points = (values: readonly number[]) =>
    values.map((rate, bin) => `${panel.x(((bin + 0.5) * end) / BINS).toFixed(1)},${y(rate).toFixed(1)}`).join(' ');
  const area = `${panel.x(end / BINS / 2).toFixed(1)},${bottom} ${points(unpacked)} ${panel.x(end - end / BINS / 2).toFixed(1)},${bottom}`;
  return [
    ...ticks(most, 3).flatMap((rate) => [
      line(panel.left, y(rate), panel.right, y(rate), GRID),
      text(panel.left - 12, y(rate) + 4, `${rate} MB/s`, { 'text-anchor': 'end', ...FAINT, 'font-size': 11 }),
    ]),
    element('polygon', { points: area, fill: UNPACKED, 'fill-opacity': 0.25 }),
    element('polyline', { points: points(unpacked), fill: 'none', stroke: UNPACKED, 'stroke-width': 1.5 }),
    element('polyline', { points: points(fetched), fill: 'none', stroke: FETCHED, 'stroke-width': 1.5 }),
    text(panel.right + 14, panel.top + 14, 'tar unpacked', { fill: UNPACKED, 'font-size': 11 }),
    text(panel.right + 14, panel.top + 30, 'blob fetched', { fill: FETCHED, 'font-size': 11 }),
  ];
}

/**
 * Megabytes a second in each bin of time. The bytes between two samples are distributed evenly over the time between the
 * samples.
 * @param count the index of the field in a sample; 1: bytes of the blob, 2: bytes of the tar
 */
function rates(timelines: readonly Timeline[], end: number, count: 1 | 2): number[] {
  const bytes = new Array<number>(BINS).fill(0);
  const width = end / BINS;
  for (const { startedMs, samples } of timelines) {
    let [from, before] = [startedMs, 0];
    for (const sample of samples) {
      const [at, now] = [sample[0], sample[count]];
      const rate = at > from ? (now - before) / (at - from) : 0;
      for (let bin = Math.floor(from / width); bin < BINS && bin * width < at; bin++) {
        const overlap = Math.min(at, (bin + 1) * width) - Math.max(from, bin * width);
        bytes[bin] = (bytes[bin] ?? 0) + rate * Math.max(0, overlap);
      }
      [from, before] = [at, now];
    }
  }
  return bytes.map((count) => count / 1000 / width);
}
