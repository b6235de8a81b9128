import type { WorkerView } from '../../queue/worker-presence.ts';
import { bytesText } from '../../units.ts';
import { age, badge, bytes, type Column, cut, jobLink, type Row, table } from '../elements.ts';
import { type Html, html, type Part } from '../html.ts';
import { imagesUrl } from './images.ts';

/** `/workers`: who takes jobs, what each does, and how its store is. */

const COLUMNS: readonly Column[] = [
  { title: 'Worker' },
  { title: 'State' },
  { title: 'Jobs' },
  { title: 'Store' },
  { title: 'Free' },
  { title: 'Images', kind: 'number' },
  { title: 'Up for' },
  { title: 'Version' },
];

/** @param connected the number of connections of workers; `undefined` if the server does not tell */
export function workersPage(workers: readonly WorkerView[], connected: number | undefined, now: number): Html {
  const present = workers.filter(({ silent }) => !silent).length;
  const stores = new Set(workers.map(({ store }) => store.identity ?? store.root)).size;
  const old = (connected ?? 0) - present;
  return html`<h1>Workers <small>${present} present${workers.length > present && `, ${workers.length - present} silent`}, ${stores} ${stores === 1 ? 'store' : 'stores'}</small></h1>
${
  workers.length === 0
    ? html`<p class="panel empty">No worker has reported. Start one with <code>unpackd worker</code>.</p>`
    : table(
        'Workers',
        COLUMNS,
        workers.map((worker) => row(worker, now)),
      )
}
${old > 0 && html`<p class="empty">${old} more connected, which do not report: they run an earlier version, or have just started.</p>`}
<p class="empty">A worker reports every ten seconds. One that stops takes its report away; one that is killed is shown as silent for an hour.</p>`;
}

function row(worker: WorkerView, now: number): Row {
  const { id, name, host, store, images, disk, started, program } = worker;
  const kind =
    store.containerd === undefined
      ? store.snapshotter
      : `${store.containerd.snapshotter} of containerd, namespace ${store.containerd.namespace}`;
  return {
    key: id,
    kind: worker.silent || worker.state === 'faulty' ? 'failing' : '',
    cells: [
      html`<bdi>${cut(name, 80)}</bdi>${!name.includes(host) && html`<br><span class="empty">on <bdi>${cut(host, 80)}</bdi></span>`}`,
      state(worker, now),
      jobs(worker, now),
      html`<bdi>${cut(store.root, 100)}</bdi><br><span class="empty">${kind}</span>`,
      disk && free(disk),
      imagesPart(store.identity, images),
      age(new Date(started), now),
      program === undefined ? '' : cut(program, 40),
    ],
  };
}

function imagesPart(store: string | undefined, images: number | undefined): Part {
  if (store === undefined || images === undefined) return undefined;
  return html`<a href="${imagesUrl({ text: '', store, order: 'used' })}">${images.toLocaleString('en-US')}</a>`;
}

function state({ silent, seen, state, problem }: WorkerView, now: number): Part {
  if (silent) return html`<span class="together">${badge('bad', 'silent')} for ${age(seen, now)}</span>`;
  if (state === 'faulty') return html`${badge('bad', 'takes no jobs')} <bdi>${cut(problem ?? '', 500)}</bdi>`;
  return state === 'closing' ? badge('warn', 'shuts down') : badge('good', 'ready');
}

function jobs({ running, slots, jobs }: WorkerView, now: number): Part {
  const rest = running - jobs.length;
  return html`${running} of ${slots}${
    jobs.length > 0 &&
    html`<details data-key="jobs"><summary>which</summary><ul class="plain">${jobs.map(
      ({ id, image, phase, since }) =>
        html`<li data-key="${id}">${jobLink({ id, image, readable: true })} ${phase}, ${age(new Date(since), now)}</li>`,
    )}${rest > 0 && html`<li>and ${rest} more</li>`}</ul></details>`
  }`;
}

/** Less than this share of a disk is marked. */
const LITTLE = 0.1;

function free({ bytes: left, totalBytes, inodes, totalInodes }: NonNullable<WorkerView['disk']>): Part {
  const isLittle =
    left < totalBytes * LITTLE || (inodes !== undefined && totalInodes !== undefined && inodes < totalInodes * LITTLE);
  const percent = totalBytes > 0 ? ` (${percentText(left / totalBytes)})` : '';
  return html`${isLittle ? badge('warn', `${bytesText(left)}${percent}`) : html`${bytes(left)}${percent}`}${inodes !== undefined && html`<br><span class="empty">${inodes.toLocaleString('en-US')} inodes</span>`}`;
}

/** `7%`, and `less than 1%` instead of `0%`. */
function percentText(share: number): string {
  return share > 0 && share < 0.01 ? 'less than 1%' : `${Math.floor(100 * share)}%`;
}
