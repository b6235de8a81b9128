import { timelineSvg } from '../../charts/timeline.ts';
import type { FailureCode } from '../../errors.ts';
import { errorOf } from '../../queue/failure.ts';
import { FAILURE_ADVICE } from '../../queue/failure-advice.ts';
import type { Failure } from '../../queue/formats.ts';
import { type JobStatus, jobError } from '../../queue/job-status.ts';
import { waitingSentence } from '../../queue/parked-attempt.ts';
import { maskSecrets } from '../../secrets.ts';
import { bytesText, durationText } from '../../units.ts';
import { age, badge, type Column, digest, facts, jobUrl, type Row, table, time } from '../elements.ts';
import { actionForm } from '../form-guard.ts';
import { type Html, html, type Part, trusted } from '../html.ts';
import type { JobDetails } from '../job-details.ts';
import { imageParts } from './job-layers.ts';
import { progressCell } from './jobs.ts';

/** `/jobs/ID`: one job. What a person needs first comes first: what happened, why, and what to do. */

export interface JobPageOptions {
  readonly now: number;
  /** What the person has just done, in a sentence. */
  readonly notice: string | undefined;
  /** The hidden field of the forms. */
  readonly formField: Html;
}

export function jobPage(id: string, details: JobDetails, options: JobPageOptions): Html {
  const { status, fields } = details;
  if (typeof status === 'string') {
    return html`<h1>Job <code>${id}</code></h1>
<section class="panel bad"><p><strong>It cannot be read.</strong></p><p>${status}</p></section>
${rawPart(id, fields)}`;
  }
  return html`<h1><bdi>${status.image ?? 'No image in the payload'}</bdi> ${badge(status.state)}</h1>
${options.notice !== undefined && html`<p class="panel good" role="status">${options.notice}</p>`}
${failurePart(status)}
${status.resultProblem !== undefined && html`<section class="panel bad"><p><strong>There is no result.</strong></p><p>${status.resultProblem}</p></section>`}
${silentPart(status, options.now)}
${waitingPart(status)}
${factsPart(details, status, options.now)}
${buttons(status, options.formField)}
${progressPart(status)}
${warningsPart(status)}
${imageParts(status)}
${timelinePart(status)}
${attemptsPart(status)}
${logPart(details)}
${rawPart(id, fields)}`;
}

/** The sentence of the last failure, and what to do. While a job is tried again, it is a warning. */
function failurePart(status: JobStatus): Part {
  const { state, failure, failedReason } = status;
  const isOver = state === 'failed';
  if (state === 'completed' || (!isOver && failure === undefined)) return undefined;
  const { code, message, details } = isOver || failure === undefined ? jobError(status) : errorOf(failure);
  // the reason that another program or a newer version wrote
  const isForeign = isOver && failure === undefined && !failedReason?.startsWith(`[${code}] `);
  return html`<section class="panel ${isOver ? 'bad' : 'warn'}" aria-label="Why it failed">
<p>${!isForeign && badge('code', code)} ${!isOver && 'The last attempt failed; the job is tried again.'}</p>
<p><strong><bdi>${message}</bdi></strong></p>
${isForeign ? FOREIGN : adviceOf(code)}
${
  details.expected !== undefined &&
  facts([
    ['Expected', digest(details.expected)],
    ['Found', digest(details.actual)],
  ])
}
</section>`;
}

const FOREIGN = html`<p>What to do: this version of unpackd does not know the failure. Another program or a newer version wrote it: look at the log below, or retry the job.</p>`;

function adviceOf(code: FailureCode): Html {
  const { means, todo } = FAILURE_ADVICE[code];
  return html`<p>${code} means: ${marked(means)}.</p><p>What to do: ${marked(todo)}</p>`;
}

/** A sentence of ours with `code` in back quotes. */
export function marked(sentence: string): Part {
  return sentence.split('`').map((part, index) => (index % 2 === 1 ? html`<code>${part}</code>` : part));
}

function silentPart({ silentSince }: JobStatus, now: number): Part {
  if (silentSince === undefined) return undefined;
  return html`<section class="panel bad"><p><strong>Its worker has been silent for ${age(silentSince, now)}.</strong></p>
<p>The worker was killed, is frozen, or cannot reach Redis. Another worker takes the job over when its lock has expired (UNPACK_LOCK).</p></section>`;
}

function waitingPart({ state, progress }: JobStatus): Part {
  const waiting = progress?.waiting;
  if (state !== 'delayed' || waiting === undefined) return undefined;
  return html`<section class="panel warn"><p><strong>${waitingSentence(waiting)}</strong></p>
<p>It has waited since ${time(new Date(waiting.since))}. It is tried again when the layer is free, or at ${time(new Date(waiting.until))}.</p></section>`;
}

function factsPart({ fields }: JobDetails, status: JobStatus, now: number): Html {
  const { id, state, added, finished, attemptsMade, cancelRequested, result, progress, ahead, due } = status;
  const started = dateOf(fields.processedOn);
  const ended = state === 'completed' || state === 'failed';
  const worker = result?.worker ?? { name: fields.pb ?? progress?.worker ?? '', host: undefined };
  return html`<section class="panel" aria-label="Facts">${facts([
    ['Job', html`<code>${id}</code>`],
    ['Added', time(added)],
    [
      'Place in the queue',
      ahead === undefined
        ? undefined
        : ahead === 0
          ? 'it is next'
          : `${ahead.toLocaleString('en-US')} jobs are before it`,
    ],
    ['Due', time(due)],
    ['Priority', fields.priority === '0' ? undefined : fields.priority],
    ['Started', state === 'waiting' || state === 'prioritized' ? undefined : time(started)],
    ['Waited', started && ended ? durationText(Math.max(0, started.getTime() - added.getTime())) : undefined],
    ['Runs', state === 'active' ? age(started, now) : undefined],
    [state === 'failed' ? 'Failed' : 'Completed', time(finished)],
    [
      'Took',
      result && html`${durationText(result.durationMs)}${result.attempts > 1 && ` in attempt ${result.attempts}`}`,
    ],
    ['Attempts', attemptsText(status, attemptsMade)],
    [
      'Worker',
      worker.name === ''
        ? undefined
        : html`<bdi>${worker.name}</bdi>${worker.host !== undefined && html` on <bdi>${worker.host}</bdi>`}`,
    ],
    [
      'Store',
      result &&
        html`<bdi>${result.store.root}</bdi> (${result.store.containerd?.snapshotter ?? result.store.snapshotter})`,
    ],
    ['In containerd', result?.store.containerd && html`namespace <bdi>${result.store.containerd.namespace}</bdi>`],
    ['Cancel', cancelRequested && 'requested; the next worker that sees it ends the job'],
  ])}</section>`;
}

function attemptsText({ progress }: JobStatus, made: number): Part {
  if (made === 0) return undefined;
  const attempts = progress?.attempts;
  return attempts === undefined ? `${made}` : `${made} of ${attempts}`;
}

function buttons({ id, state, cancelRequested }: JobStatus, formField: Html): Part {
  if (state === 'failed')
    return html`<div class="buttons">${actionForm(`${jobUrl(id)}/retry`, 'Retry', 'It gets all its attempts again, and continues from the layers that are in the store.', formField)}</div>`;
  if (state === 'completed' || cancelRequested) return undefined;
  return html`<div class="buttons">${actionForm(`${jobUrl(id)}/cancel`, 'Cancel', 'It fails with CANCELLED. Layers that were committed stay in the store.', formField, { kind: 'bad' })}</div>`;
}

function progressPart({ state, progress }: JobStatus): Part {
  if (state !== 'active' || progress === undefined) return undefined;
  return html`<section class="panel" aria-label="Progress">${progressCell(progress)}</section>`;
}

function warningsPart({ result }: JobStatus): Part {
  if (result === undefined || result.warnings.length === 0) return undefined;
  return html`<section class="panel warn"><p><strong>Warnings</strong></p>
<ul class="plain">${result.warnings.map((warning) => html`<li><bdi>${warning}</bdi></li>`)}</ul></section>`;
}

function timelinePart({ result }: JobStatus): Part {
  const has = result?.images.some(({ layers }) => layers.some(({ timeline }) => timeline !== undefined));
  if (result === undefined || has !== true) return undefined;
  return html`<h2 id="timeline">Where the time went</h2>
<div class="scroll tall chart" tabindex="0" role="region" aria-labelledby="timeline">${trusted(timelineSvg(result))}</div>
<p class="empty">The table above has the same times. From a shell: <code>unpackd status JOB --timeline FILE.svg</code></p>`;
}

const ATTEMPT_COLUMNS: readonly Column[] = [
  { title: 'Attempt', kind: 'number' },
  { title: 'When' },
  { title: 'Failure' },
  { title: 'Layer', kind: 'number' },
];

function attemptsPart({ progress }: JobStatus): Part {
  const failures = progress?.failures ?? [];
  if (failures.length === 0) return undefined;
  return html`<h2>Attempts that failed <small>${failures.length === 20 ? 'the newest twenty' : failures.length}</small></h2>
${table('Attempts that failed', ATTEMPT_COLUMNS, [...failures].reverse().map(attemptRow))}`;
}

function attemptRow(failure: Failure): Row {
  const { attempt, attempts, at, code, message, layerIndex, layerCount } = failure;
  const layer =
    layerIndex === undefined ? '' : `${layerIndex + 1}${layerCount === undefined ? '' : ` of ${layerCount}`}`;
  return {
    key: at,
    cells: [`${attempt} of ${attempts}`, time(new Date(at)), html`${badge('code', code)} <bdi>${message}</bdi>`, layer],
  };
}

function logPart({ log, logTotal }: JobDetails): Part {
  if (log.length === 0) return undefined;
  const note = logTotal > log.length ? `the newest ${log.length} of ${logTotal.toLocaleString('en-US')} lines, ` : '';
  return html`<h2 id="log">Log <small>${note}the newest line first, in UTC</small></h2>
<pre class="panel" tabindex="0" role="region" aria-labelledby="log">${maskSecrets(log.join('\n'))}</pre>`;
}

/** Names of BullMQ's fields, as people know them. */
const RAW: readonly (readonly [field: string, title: string])[] = [
  ['data', 'Payload'],
  ['opts', 'Options'],
  ['progress', 'Progress'],
  ['returnvalue', 'Result'],
  ['failedReason', 'failedReason'],
  ['stacktrace', 'Stack traces'],
];
/** A field with more characters has a page of its own, because a page is fetched again and again. */
const LONGEST_INLINE = 20_000;
/** Maximum number of characters of a field on its page. */
const LONGEST_RAW = 5_000_000;

function rawPart(id: string, fields: JobDetails['fields']): Html {
  return html`<h2>Raw</h2>
${RAW.filter(([field]) => (fields[field] ?? '') !== '').map(([field, title]) => {
  const text = fields[field] ?? '';
  return text.length > LONGEST_INLINE
    ? html`<p data-key="raw-${field}"><a href="${jobUrl(id)}/raw/${field}">${title}</a> (${bytesText(text.length)})</p>`
    : html`<details data-key="raw-${field}"><summary>${title}</summary><pre class="panel" tabindex="0">${pretty(text)}</pre></details>`;
})}`;
}

/** `/jobs/ID/raw/FIELD`: one field. @returns `undefined` if the job has no such field */
export function rawPage(id: string, field: string, fields: JobDetails['fields']): Html | undefined {
  const title = RAW.find(([name]) => name === field)?.[1];
  const text = fields[field];
  if (title === undefined || text === undefined) return undefined;
  return html`<h1>${title}</h1><p><a href="${jobUrl(id)}">Back to the job</a></p><pre class="panel whole" tabindex="0">${pretty(text.slice(0, LONGEST_RAW))}</pre>`;
}

function pretty(text: string): string {
  try {
    return maskSecrets(JSON.stringify(JSON.parse(text), undefined, 2));
  } catch {
    // another program wrote it: as it is
    return maskSecrets(text);
  }
}

function dateOf(milliseconds: string | undefined): Date | undefined {
  const date = new Date(Number(milliseconds ?? Number.NaN));
  return Number.isNaN(date.getTime()) || date.getTime() <= 0 ? undefined : date;
}
