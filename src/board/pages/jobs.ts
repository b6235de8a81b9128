import type { Progress } from '../../queue/formats.ts';
import { JOB_STATES, type JobState } from '../../queue/job-status.ts';
import type { FailureCount, JobCounts } from '../../queue/overview.ts';
import { waitingSentence } from '../../queue/parked-attempt.ts';
import { bytesText, count, durationText } from '../../units.ts';
import { age, badge, type Column, cut, jobLink, type Row, reason, table, time } from '../elements.ts';
import { actionForm } from '../form-guard.ts';
import { type Html, html, type Part } from '../html.ts';
import type { JobPage, ListedJob } from '../job-list.ts';

/** `/jobs`: the jobs of one state, page by page; and the tables of jobs that other pages show. */

/** The number of jobs of a page. */
export const PAGE_SIZE = 50;

/** The failures of the last hour, whose jobs can be retried together. */
export interface RetriedTogether {
  readonly failures: readonly FailureCount[];
  /** The hidden field of the forms. */
  readonly formField: Html;
}

export function jobsPage(
  state: JobState,
  page: JobPage,
  counts: JobCounts,
  retried: RetriedTogether,
  now: number,
): Html {
  const { jobs, from, total } = page;
  const place = jobs.length === 0 ? 'none' : `${number(from + 1)} to ${number(from + jobs.length)} of ${number(total)}`;
  return html`<h1>Jobs: ${state} <small>${place}</small></h1>
${tiles(counts, state)}
<p class="empty">${ORDER[state]}</p>
${retryForms(retried)}
${jobs.length === 0 ? html`<p class="panel empty">${from > 0 ? 'There are no jobs on this page any more.' : `No job is ${state}.`}</p>` : jobTable(state, jobs, now)}
${pageLinks(state, page)}`;
}

function retryForms({ failures, formField }: RetriedTogether): Part {
  if (failures.length === 0) return undefined;
  return html`<details data-key="retry" class="panel"><summary>Retry all that failed in the last hour with one code</summary>${failures.map(
    ({ code, count: jobs }) =>
      html`<div class="buttons" data-key="${code}">${actionForm('/retry', `Retry ${count(jobs, 'job')}`, code, formField, { values: { code } })}</div>`,
  )}</details>`;
}

/** How many jobs are in each state, as links to their lists. */
export function tiles(counts: JobCounts, current?: JobState): Html {
  return html`<ul class="tiles">${JOB_STATES.map(
    (state) => html`
<li><a href="/jobs?state=${state}" class="${state === 'failed' && counts.failed > 0 && 'bad'}"${state === current && html` aria-current="page"`}><b>${number(counts[state])}</b> ${state}</a></li>`,
  )}
</ul>`;
}

const number = (count: number): string => count.toLocaleString('en-US');

const ORDER: Readonly<Record<JobState, string>> = {
  waiting: 'They have no priority, so they come first, in this order.',
  prioritized: 'They come after the waiting ones, in this order.',
  delayed:
    'They wait for their next attempt, for their time, or for a layer that another process writes. The first that is due comes first.',
  active: 'Workers have them. The one that runs for the longest time comes first.',
  completed: 'The newest come first. Old ones are removed: UNPACK_KEEP_COMPLETED.',
  failed: 'The newest come first. Old ones are removed: UNPACK_KEEP_FAILED.',
};

function pageLinks(state: JobState, { jobs, from, total }: JobPage): Part {
  const last = jobs.at(-1);
  const link = (name: string, query: string) => html`<a class="button" href="/jobs?state=${state}${query}">${name}</a>`;
  const isFirst = from <= 0;
  const hasNext = last !== undefined && from + jobs.length < total;
  if (isFirst && !hasNext) return undefined;
  const next = last && `&after=${encodeURIComponent(last.id)}&from=${from + jobs.length}`;
  return html`<nav class="buttons" aria-label="Pages of jobs">
${!isFirst && link('First', '')}
${!isFirst && link('Previous', `&from=${Math.max(0, from - PAGE_SIZE)}`)}
${hasNext && link('Next', next ?? '')}
</nav>`;
}

const IMAGE: Column = { title: 'Image' };

/** A table of jobs of one state, with the columns that matter there. */
export function jobTable(state: JobState, jobs: readonly ListedJob[], now: number): Html {
  const { columns, cells } = TABLES[state];
  return table(
    `Jobs that are ${state}`,
    [IMAGE, ...columns],
    jobs.map((job): Row => ({ key: job.id, cells: [jobLink(job), ...cells(job, now)] })),
  );
}

/** Jobs of several states: the answer to a search. */
export function mixedTable(jobs: readonly ListedJob[], now: number): Html {
  return table(
    'Jobs that were found',
    [IMAGE, { title: 'State' }, { title: 'Added' }, { title: 'Last failure' }],
    jobs.map(
      (job): Row => ({
        key: job.id,
        cells: [jobLink(job), badge(job.state), age(job.added, now), reason(job.failedReason)],
      }),
    ),
  );
}

interface JobColumns {
  readonly columns: readonly Column[];
  readonly cells: (job: ListedJob, now: number) => readonly Part[];
}

const WAITS: JobColumns = {
  columns: [{ title: 'Waits' }, { title: 'Added' }, { title: 'Attempts', kind: 'number' }, { title: 'Last failure' }],
  cells: (job, now) => [age(job.added, now), time(job.added), attempts(job), reason(job.failedReason)],
};

const TABLES: Readonly<Record<JobState, JobColumns>> = {
  waiting: WAITS,
  prioritized: {
    columns: [{ title: 'Priority', kind: 'number' }, ...WAITS.columns],
    cells: (job, now) => [job.priority, ...WAITS.cells(job, now)],
  },
  delayed: {
    columns: [{ title: 'Due' }, { title: 'Attempts', kind: 'number' }, { title: 'Why' }],
    cells: (job) => [
      time(job.due),
      attempts(job),
      job.progress?.waiting === undefined ? reason(job.failedReason) : waitingSentence(job.progress.waiting),
    ],
  },
  active: {
    columns: [{ title: 'Progress' }, { title: 'Runs' }, { title: 'Attempt', kind: 'number' }, { title: 'Worker' }],
    cells: (job, now) => [
      job.progress === undefined ? 'taken by a worker' : progressCell(job.progress),
      age(job.started, now),
      job.attemptsMade + 1,
      html`<bdi>${cut(job.worker ?? '', 80)}</bdi>`,
    ],
  },
  completed: {
    columns: [
      { title: 'Completed' },
      { title: 'Took', kind: 'number' },
      { title: 'Waited', kind: 'number' },
      { title: 'Worker' },
    ],
    cells: (job) => [
      time(job.finished),
      between(job.started, job.finished),
      between(job.added, job.started),
      html`<bdi>${cut(job.worker ?? '', 80)}</bdi>`,
    ],
  },
  failed: {
    columns: [{ title: 'Why' }, { title: 'Failed' }, { title: 'Attempts', kind: 'number' }],
    cells: (job) => [reason(job.failedReason), time(job.finished), attempts(job)],
  },
};

const attempts = ({ attemptsMade }: ListedJob): Part => (attemptsMade === 0 ? '' : attemptsMade);

function between(from: Date | undefined, to: Date | undefined): string {
  return from === undefined || to === undefined ? '' : durationText(Math.max(0, to.getTime() - from.getTime()));
}

/** How far a job is: a bar and the numbers. */
export function progressCell(progress: Progress): Html {
  const { phase, bytesFetched, bytesTotal, layersDone, layersTotal } = progress;
  if (phase === 'resolving') return html`resolving the image`;
  const [done, total] = bytesTotal > 0 ? [bytesFetched, bytesTotal] : [layersDone, layersTotal];
  const words = `${layersDone} of ${layersTotal} layers${bytesTotal > 0 ? `, ${bytesText(bytesFetched)} of ${bytesText(bytesTotal)}` : ''}`;
  return html`<progress max="${Math.max(1, total)}" value="${Math.min(done, total)}" aria-label="${words}"></progress> ${words}`;
}
