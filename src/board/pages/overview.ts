import type { JobState } from '../../queue/job-status.ts';
import type { JobCounts, WaitingJob } from '../../queue/overview.ts';
import { age, jobLink } from '../elements.ts';
import { actionForm } from '../form-guard.ts';
import { type Html, html, type Part } from '../html.ts';
import type { ListedJob } from '../job-list.ts';
import type { Problem } from '../problems.ts';
import { jobTable, tiles } from './jobs.ts';

/** `/`: whether anything is wrong, what runs, what waits, what failed and why. */

export interface Overview {
  readonly paused: boolean;
  readonly problems: readonly Problem[];
  readonly counts: JobCounts;
  readonly oldest: (WaitingJob & { readonly isDelayed: boolean }) | undefined;
  readonly active: readonly ListedJob[];
  readonly failed: readonly ListedJob[];
  /** The next that workers take. */
  readonly next: readonly ListedJob[];
  /** A sentence about the workers. */
  readonly workers: Part;
}

export interface OverviewOptions {
  readonly now: number;
  /** What the person has just done, in a sentence. */
  readonly notice: string | undefined;
  /** The hidden field of the forms. */
  readonly formField: Html;
}

export function overviewPage(overview: Overview, { now, notice, formField }: OverviewOptions): Html {
  const { problems, counts, oldest, active, failed, next, workers } = overview;
  return html`<h1>Overview</h1>
${notice !== undefined && html`<p class="panel good" role="status">${notice}</p>`}
<div role="status">${problems.length === 0 ? NOTHING_WRONG : problems.map(problemPart)}</div>
${tiles(counts)}
<section class="panel"><p>${workers}</p>
<p>${oldest === undefined ? 'No job waits.' : html`The job that waits for the longest time was added ${age(oldest.added, now)} ago: ${jobLink({ ...oldest, readable: true })}${oldest.isDelayed && ', which is delayed'}.`}</p></section>
${part('active', 'Active', 'Nothing runs.', active, counts, now)}
${part('failed', 'Failed', 'No job has failed.', failed, counts, now)}
${part('waiting', 'Next', 'No job waits without a priority.', next, counts, now)}
<h2>Whole queue</h2>
<div class="buttons">${overview.paused ? actionForm('/resume', 'Resume', 'Workers take jobs again.', formField) : actionForm('/pause', 'Pause', 'Workers take no jobs until somebody resumes the queue. Running jobs continue, and jobs can be added.', formField, { kind: 'bad' })}</div>`;
}

const NOTHING_WRONG = html`<section class="panel good"><p><strong>Nothing is wrong.</strong></p></section>`;

function problemPart({ level, finding, todo }: Problem): Html {
  return html`<section class="panel ${level}"><p><strong><bdi>${finding}</bdi></strong></p><p>${todo}</p></section>`;
}

function part(
  state: JobState,
  title: string,
  none: string,
  jobs: readonly ListedJob[],
  counts: JobCounts,
  now: number,
): Html {
  const more = counts[state] > jobs.length;
  return html`<h2>${title}${more && html` <small><a href="/jobs?state=${state}">all ${counts[state].toLocaleString('en-US')}</a></small>`}</h2>
${jobs.length === 0 ? html`<p class="panel empty">${none}</p>` : jobTable(state, jobs, now)}`;
}
