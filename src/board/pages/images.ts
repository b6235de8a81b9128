import { LIST_OLD, type ListedStore } from '../../queue/store-images.ts';
import type { WorkerView } from '../../queue/worker-presence.ts';
import { bytesText } from '../../units.ts';
import { age, badge, bytes, type Column, cut, digest, type Row, table } from '../elements.ts';
import { type Html, html, type Part } from '../html.ts';
import { type FoundImage, IMAGE_ORDERS, type ImageOrder, type ImagePlace, type ImageQuery } from '../image-list.ts';

/** `/images`: which images the stores have, how large they are, and when they were used. */

/** The number of images of a page. */
const IMAGES_SHOWN = 100;

export interface ImagesPageParts {
  readonly stores: readonly ListedStore[];
  readonly workers: readonly WorkerView[];
  readonly found: readonly FoundImage[];
  readonly query: ImageQuery;
  /** The place of the first image, counted from 0. */
  readonly from: number;
  readonly now: number;
}

export function imagesPage({ stores, workers, found, query, from, now }: ImagesPageParts): Html {
  const total = found.length.toLocaleString('en-US');
  return html`<h1>Images <small>${total}${query.text !== '' && html` with <bdi>“${query.text}”</bdi>`}${storeWords(stores, query)}</small></h1>
${searchForm(query)}
${orderLinks(query)}
${imagesPart({ stores, found, query, from, now })}
${pageLinks(query, from, found.length)}
<h2 id="stores">Stores</h2>
${
  stores.length === 0
    ? html`<p class="panel empty">No worker has listed the images of its store.${workers.length > 0 && ' The running workers are of an earlier version, have just started, or have UNPACK_LISTED_IMAGES=0.'}</p>`
    : table(
        'Stores',
        STORE_COLUMNS,
        stores.map((store) => storeRow(store, workers, now)),
      )
}
<p class="empty">One worker of each store lists its images every ten seconds, or less often if the store is large. <code>unpackd images ls</code> on the machine shows them all, <code>pin</code> keeps one, and <code>rm</code> removes one.</p>`;
}

function storeWords(stores: readonly ListedStore[], { store }: ImageQuery): Part {
  if (store === undefined) return stores.length > 1 && ` in ${stores.length} stores`;
  const one = stores.find(({ id }) => id === store);
  return one === undefined
    ? ' in a store that is not listed any more'
    : html` in <bdi>${cut(one.root, 60)}</bdi> on <bdi>${cut(one.host, 60)}</bdi>`;
}

/** The address of the page with another query. */
export function imagesUrl({ text, store, order }: ImageQuery, from = 0): string {
  const query = new URLSearchParams();
  if (text !== '') query.set('q', text);
  if (store !== undefined) query.set('store', store);
  if (order !== 'used') query.set('order', order);
  if (from > 0) query.set('from', String(from));
  return query.size === 0 ? '/images' : `/images?${query}`;
}

function searchForm({ text, store, order }: ImageQuery): Html {
  const kept = (name: string, value: string | undefined) =>
    value !== undefined && html`<input type="hidden" name="${name}" value="${value}">`;
  return html`<form class="buttons" role="search" action="/images" method="get" aria-label="Images">
<input class="long" name="q" type="search" value="${text}" aria-label="Name or digest" placeholder="name or digest" autocomplete="off" maxlength="500">
${kept('store', store)}${kept('order', order === 'used' ? undefined : order)}<button>Find images</button>
${(text !== '' || store !== undefined) && html`<a class="button" href="${imagesUrl({ text: '', store: undefined, order })}">All images</a>`}
</form>`;
}

const ORDER_WORDS: Readonly<Record<ImageOrder, string>> = {
  used: 'Used last',
  unpacked: 'Unpacked last',
  size: 'Largest',
  name: 'Name',
};

function orderLinks(query: ImageQuery): Html {
  return html`<nav class="buttons" aria-label="Order">${IMAGE_ORDERS.map(
    (order) =>
      html`<a class="button" href="${imagesUrl({ ...query, order })}"${order === query.order && html` aria-current="true"`}>${ORDER_WORDS[order]}</a>`,
  )}</nav>`;
}

const COLUMNS: readonly Column[] = [
  { title: 'Image' },
  { title: 'Platform' },
  { title: 'Digest' },
  { title: 'On disk', kind: 'number' },
  { title: 'Used' },
  { title: 'Unpacked' },
  { title: 'Store' },
  { title: 'State' },
];

function imagesPart({ stores, found, query, from, now }: Omit<ImagesPageParts, 'workers'>): Html {
  const shown = found.slice(from, from + IMAGES_SHOWN);
  if (shown.length > 0) {
    return table(
      'Images',
      COLUMNS,
      shown.map((image) => imageRow(image, stores.length, now)),
    );
  }
  const isFiltered = query.text !== '' || query.store !== undefined;
  return html`<p class="panel empty">${from > 0 ? 'There are no images on this page any more.' : isFiltered ? 'No listed image is like that.' : 'No image is listed.'}</p>`;
}

function imageRow(image: FoundImage, stores: number, now: number): Row {
  const { reference, platform, manifest, chainId, places, used, unpacked } = image;
  return {
    key: [reference, platform, manifest, chainId].join(' '),
    cells: [
      html`<a href="${imageUrl(image)}"><bdi>${cut(reference, 200)}</bdi></a>`,
      cut(platform, 40),
      digest(manifest ?? chainId),
      sizePart(image),
      html`${age(new Date(used), now)} ago`,
      html`${age(new Date(unpacked), now)} ago`,
      storesPart(places, stores),
      states(places),
    ],
  };
}

/** The page of one image. */
function imageUrl({ reference, platform, manifest = '', chainId = '' }: FoundImage): string {
  return `/image?${new URLSearchParams({ reference, platform, manifest, chain: chainId })}`;
}

export function sizePart({ bytes: size, isMore }: Pick<FoundImage, 'bytes' | 'isMore'>): Html {
  return html`${isMore && 'more than '}${bytes(size)}`;
}

function storesPart(places: readonly ImagePlace[], stores: number): Part {
  const [first] = places;
  if (first === undefined) return undefined;
  if (places.length > 1) return `${places.length} of ${stores} stores`;
  return html`<bdi>${cut(first.store.host, 60)}</bdi>`;
}

/** What is special about an image in some of the stores. */
export function states(places: readonly ImagePlace[]): Part {
  const found = (is: (place: ImagePlace) => boolean, kind: string, word: string): Part => {
    const matching = places.filter(is).length;
    if (matching === 0) return undefined;
    return html`${badge(kind, matching === places.length ? word : `${word} in ${matching}`)} `;
  };
  return [
    found(({ image }) => image.broken !== undefined, 'bad', 'broken'),
    found(({ image }) => image.pinned, 'pinned', 'pinned'),
    found(({ image }) => image.users > 0, 'active', 'in use'),
  ];
}

function pageLinks(query: ImageQuery, from: number, total: number): Part {
  const hasNext = from + IMAGES_SHOWN < total;
  if (from <= 0 && !hasNext) return undefined;
  const link = (name: string, to: number) => html`<a class="button" href="${imagesUrl(query, to)}">${name}</a>`;
  const last = Math.min(from + IMAGES_SHOWN, total);
  return html`<nav class="buttons" aria-label="Pages of images">
${from > 0 && link('First', 0)}
${from > 0 && link('Previous', Math.max(0, from - IMAGES_SHOWN))}
${hasNext && link('Next', from + IMAGES_SHOWN)}
<span class="empty">${from < total && `${(from + 1).toLocaleString('en-US')} to ${last.toLocaleString('en-US')} of ${total.toLocaleString('en-US')}`}</span></nav>`;
}

const STORE_COLUMNS: readonly Column[] = [
  { title: 'Store' },
  { title: 'Machine' },
  { title: 'Images', kind: 'number' },
  { title: 'Free', kind: 'number' },
  { title: 'Listed' },
  { title: 'Workers' },
];

function storeRow(store: ListedStore, workers: readonly WorkerView[], now: number): Row {
  const sharing = workers.filter((worker) => worker.store.identity === store.id);
  const disk = sharing.toSorted((a, b) => b.seen.getTime() - a.seen.getTime())[0]?.disk;
  const more = store.images - store.listed.length;
  const isOld = now - store.seen.getTime() > LIST_OLD;
  const count = html`<a href="${imagesUrl({ text: '', store: store.id, order: 'used' })}">${store.images.toLocaleString('en-US')}</a>`;
  return {
    key: store.id,
    cells: [
      html`<bdi>${cut(store.root, 100)}</bdi>${kindOf(store)}`,
      html`<bdi>${cut(store.host, 80)}</bdi>`,
      html`${count}${more > 0 && html`<br><span class="empty">${more.toLocaleString('en-US')} not listed: UNPACK_LISTED_IMAGES</span>`}`,
      disk === undefined ? 'not known' : html`${bytes(disk.bytes)} of ${bytesText(disk.totalBytes)}`,
      html`${isOld ? html`${badge('warn', 'old')} ` : ''}${age(store.seen, now)} ago`,
      sharing.length === 0 ? 'none' : names(sharing.map(({ name }) => name)),
    ],
  };
}

function kindOf({ containerd }: ListedStore): Part {
  if (containerd === undefined) return undefined;
  return html`<br><span class="empty">${containerd.snapshotter} of containerd, namespace ${containerd.namespace}</span>`;
}

/** Maximum number of names in a cell. */
const NAMES = 4;

function names(all: readonly string[]): Html {
  const rest = all.length - NAMES;
  const shown = all.slice(0, NAMES).map((name) => cut(name, 60));
  return html`<bdi>${shown.join(', ')}</bdi>${rest > 0 && ` and ${rest} more`}`;
}
