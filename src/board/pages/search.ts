import { type Html, html, type Part } from '../html.ts';
import type { Found } from '../job-search.ts';
import { mixedTable } from './jobs.ts';

/** `/search`: the jobs whose image contains a text. The ID of a job leads to its page at once. */
export function searchPage(query: string, found: Found, now: number): Html {
  const { jobs, searched, next } = found;
  const more: Part =
    next &&
    html`<p class="buttons"><a class="button" href="/search?q=${encodeURIComponent(query)}&amp;in=${next.state}&amp;from=${next.from}">Search further</a></p>`;
  return html`<h1>Jobs with <bdi>“${query}”</bdi></h1>
<p class="empty">${searched.toLocaleString('en-US')} jobs were searched${next === undefined ? ', which are all' : ''}. The text is looked for in the names of images; the ID of a job must be complete.</p>
${jobs.length === 0 ? html`<p class="panel empty">None was found${next === undefined ? '' : ' so far'}.</p>` : mixedTable(jobs, now)}
${more}`;
}
