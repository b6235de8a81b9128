import { columnChart, lineChart } from '../../charts/over-time.ts';
import type { QueueSample } from '../../queue/queue-history.ts';
import { type Html, html, trusted } from '../html.ts';

/** `/queue`: how many jobs finished, waited and ran over the last hour, day or week. */

export interface Range {
  readonly name: string;
  readonly minutes: number;
  readonly bins: number;
}

export const RANGES: readonly [Range, ...Range[]] = [
  { name: 'hour', minutes: 60, bins: 60 },
  { name: 'day', minutes: 24 * 60, bins: 96 },
  { name: 'week', minutes: 7 * 24 * 60, bins: 84 },
];

export interface OverTime {
  readonly range: Range;
  readonly completed: readonly number[];
  readonly failed: readonly number[];
  readonly measured: readonly QueueSample[];
}

const COLORS = {
  completed: '#3f9f6b',
  failed: '#d9483b',
  waiting: '#3d85c6',
  delayed: '#f0a030',
  active: '#8e4fa8',
} as const;

export function overTimePage({ range, completed, failed, measured }: OverTime): Html {
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0).toLocaleString('en-US');
  const series = (name: keyof typeof COLORS, values: readonly (number | undefined)[]) => ({
    name,
    color: COLORS[name],
    values,
  });
  const line = (name: 'waiting' | 'delayed' | 'active') =>
    series(
      name,
      measured.map((sample) => sample?.[name]),
    );
  const axis = { minutes: range.minutes, unit: 'jobs' };
  return html`<h1>Over time</h1>
<nav class="buttons" aria-label="Time">${RANGES.map(
    ({ name }) =>
      html`<a class="button" href="/queue?range=${name}"${name === range.name && html` aria-current="page"`}>last ${name}</a>`,
  )}</nav>
<h2>Finished <small>${sum(completed)} completed, ${sum(failed)} failed in the last ${range.name}</small></h2>
<div class="scroll chart recent" tabindex="0" role="region" aria-label="Finished jobs">${trusted(columnChart([series('completed', completed), series('failed', failed)], axis))}</div>
<h2>Waiting and active <small>the largest number of each interval; measured once a minute by workers and boards</small></h2>
<div class="scroll chart recent" tabindex="0" role="region" aria-label="Waiting and active jobs">${trusted(
    lineChart([line('waiting'), line('delayed'), line('active')], axis),
  )}</div>
<p class="empty">Waiting counts jobs with a priority, too. For longer times, and for durations, let Prometheus read <code>/metrics</code>.</p>`;
}
