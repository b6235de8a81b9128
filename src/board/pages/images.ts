import type { WorkerView } from '../../queue/worker-presence.ts';
import { age, bytes, type Column, cut, jobLink, type Row, table, time } from '../elements.ts';
import { type Html, html } from '../html.ts';
import { READ, type UnpackedImage } from '../unpacked-images.ts';

/** `/images`: how many images each store has, and which were unpacked lately. */

const STORES: readonly Column[] = [
  { title: 'Store' },
  { title: 'Machine' },
  { title: 'Images', kind: 'number' },
  { title: 'Free', kind: 'number' },
  { title: 'Workers' },
];
const IMAGES: readonly Column[] = [
  { title: 'Image' },
  { title: 'Unpacked' },
  { title: 'Ago' },
  { title: 'Jobs', kind: 'number' },
  { title: 'Workers' },
];
/** Maximum number of images and of names in a cell. */
const MOST = 200;
const NAMES = 4;

export function imagesPage(workers: readonly WorkerView[], images: readonly UnpackedImage[], now: number): Html {
  const stores = Map.groupBy(workers, ({ store, host }) => store.identity ?? `${host} ${store.root}`);
  const more = images.length > MOST ? ` the newest ${MOST} of ${images.length.toLocaleString('en-US')}` : '';
  return html`<h1>Images</h1>
<h2>Stores</h2>
${
  stores.size === 0
    ? html`<p class="panel empty">No worker has reported a store.</p>`
    : table(
        'Stores',
        STORES,
        [...stores].map(([key, sharing]) => storeRow(key, sharing)),
      )
}
<p class="empty"><code>unpackd images ls</code> on a machine lists the images of its store, with their sizes and last use.</p>
<h2>Unpacked lately <small>of the newest ${READ.toLocaleString('en-US')} completed jobs${more !== '' && `,${more}`}</small></h2>
${
  images.length === 0
    ? html`<p class="panel empty">No job has completed.</p>`
    : table(
        'Images that were unpacked lately',
        IMAGES,
        images.slice(0, MOST).map((image) => imageRow(image, now)),
      )
}`;
}

/** Workers that share a store report the same of it. */
function storeRow(key: string, sharing: readonly WorkerView[]): Row {
  const newest = sharing.reduce((a, b) => (b.seen > a.seen ? b : a));
  const hosts = [...new Set(sharing.map(({ host }) => host))];
  return {
    key,
    cells: [
      html`<bdi>${cut(newest.store.root, 100)}</bdi>`,
      names(hosts),
      newest.store.images === undefined ? 'not known' : newest.store.images.toLocaleString('en-US'),
      newest.disk === undefined ? 'not known' : bytes(newest.disk.bytes),
      names(sharing.map(({ name }) => name)),
    ],
  };
}

function imageRow({ image, job, jobs, workers }: UnpackedImage, now: number): Row {
  return { key: image, cells: [jobLink(job), time(job.finished), age(job.finished, now), jobs, names(workers)] };
}

function names(all: readonly string[]): Html {
  const rest = all.length - NAMES;
  const shown = all.slice(0, NAMES).map((name) => cut(name, 60));
  return html`<bdi>${shown.join(', ')}</bdi>${rest > 0 && ` and ${rest} more`}`;
}
