import { ageText, bytesText } from '../units.ts';
import { type Html, html, type Part } from './html.ts';
import type { ListedJob } from './job-list.ts';

/** The small parts that the pages are made of: times, sizes, states, digests, links to jobs, tables. */

/** A moment. Without a script it is shown in UTC; the script shows it in the zone of the browser. The title is always UTC. */
export function time(date: Date | undefined): Part {
  if (date === undefined) return '';
  const iso = date.toISOString();
  const utc = `${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC`;
  return html`<time datetime="${iso}" title="${utc}" data-clock>${utc}</time>`;
}

/** How long ago a moment was. */
export function age(date: Date | undefined, now: number): Part {
  if (date === undefined) return '';
  const iso = date.toISOString();
  return html`<time datetime="${iso}" title="${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC">${ageText(date, now)}</time>`;
}

export function bytes(count: number): Html {
  return html`<span title="${count.toLocaleString('en-US')} bytes">${bytesText(count)}</span>`;
}

export function badge(kind: string, text: string = kind): Html {
  return html`<span class="badge ${kind}">${text}</span>`;
}

/** A digest. The style sheet cuts it, so that a copy of the page still has the whole of it. */
export function digest(text: string | undefined): Part {
  return text === undefined ? '' : html`<code class="digest" title="${text}">${text}</code>`;
}

export function jobUrl(id: string): string {
  return `/jobs/${encodeURIComponent(id)}`;
}

/** The name of a job's image, as a link to the job. */
export function jobLink({ id, image, readable }: Pick<ListedJob, 'id' | 'image' | 'readable'>): Html {
  const label =
    image ??
    (readable
      ? html`<i>no image in the payload of job ${cut(id, 60)}</i>`
      : html`<i>job ${cut(id, 60)} cannot be read</i>`);
  return html`<a href="${jobUrl(id)}"><bdi>${typeof label === 'string' ? cut(label, LONGEST) : label}</bdi></a>`;
}

/** Maximum number of characters of a name in a list. */
const LONGEST = 200;

export function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** `[CODE] sentence`, with the code as a mark. */
export function reason(failedReason: string | undefined): Part {
  const [, code, sentence] = /^\[([A-Z_]+)\] (.*)$/s.exec(failedReason ?? '') ?? [];
  if (code === undefined) return failedReason === undefined ? '' : html`<bdi>${cut(failedReason, 500)}</bdi>`;
  return html`${badge('code', code)} <bdi>${cut(sentence ?? '', 500)}</bdi>`;
}

export interface Column {
  readonly title: string;
  /** `wide`: left out on a telephone; `number`: to the right. */
  readonly kind?: 'wide' | 'number';
}

export interface Row {
  /** The same for the same thing in the next answer, so that a refresh moves the row and does not rewrite it. */
  readonly key: string;
  readonly cells: readonly Part[];
  readonly kind?: string;
}

/**
 * A table. On a telephone each row becomes a block in which the cells have their titles beside them; the roles keep it a table
 * for a screen reader. A `dense` table stays a table there, and its frame scrolls.
 */
export function table(
  caption: string,
  columns: readonly Column[],
  rows: readonly Row[],
  kind: 'dense' | '' = '',
): Html {
  const of = ({ kind }: Column): string => kind ?? '';
  return html`<div class="scroll${kind === 'dense' && ' tall'}" tabindex="0" role="region" aria-label="${caption}"><table role="table" class="${kind}">
<caption>${caption}</caption>
<thead role="rowgroup"><tr role="row">${columns.map((column) => html`<th role="columnheader" scope="col" class="${of(column)}">${column.title}</th>`)}</tr></thead>
<tbody role="rowgroup">${rows.map(
    ({ key, cells, kind = '' }) => html`
<tr role="row" data-key="${key}" class="${kind}">${cells.map((cell, index) => {
      const column = columns[index] ?? { title: '' };
      return html`<td role="cell" class="${of(column)}" data-label="${column.title}">${cell}</td>`;
    })}</tr>`,
  )}</tbody></table></div>`;
}

/** Pairs of a name and a value; pairs without a value are left out. */
export function facts(pairs: readonly (readonly [name: string, value: Part])[]): Html {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== '' && value !== false);
  return html`<dl>${shown.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
