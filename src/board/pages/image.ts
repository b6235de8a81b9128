import { bytesText } from '../../units.ts';
import { age, bytes, type Column, cut, digest, facts, jobUrl, type Row, table, time } from '../elements.ts';
import { type Html, html, type Part } from '../html.ts';
import type { FoundImage, ImagePlace } from '../image-list.ts';
import { sizePart, states } from './images.ts';

/** `/image`: one image, and each store that has it. */

const COLUMNS: readonly Column[] = [
  { title: 'Machine' },
  { title: 'Store' },
  { title: 'State' },
  { title: 'Of its own', kind: 'number' },
  { title: 'Shared', kind: 'number' },
  { title: 'Used' },
  { title: 'Unpacked' },
  { title: 'By job' },
];

export function imagePage(found: FoundImage, stores: number, now: number): Html {
  const { reference, platform, manifest, chainId, places } = found;
  const [first] = places;
  const whole = (text: string | undefined) => text && html`<span class="whole">${digest(text)}</span>`;
  const sources = [...new Set(places.map(({ image }) => image.source))];
  return html`<h1><bdi>${reference}</bdi>${platform !== '' && html` <small>${platform}</small>`}</h1>
<section class="panel" aria-label="Image">${facts([
    ['On disk', sizePart(found)],
    ['Stores', `${places.length} of ${stores}`],
    ['Manifest', whole(manifest)],
    ['Config', whole(first?.image.config)],
    ['Index', whole(first?.image.index)],
    ['Chain ID', whole(chainId) ?? 'none, because the image has no layers'],
    ['From', sources.map((source) => html`<bdi>${cut(source, 300)}</bdi><br>`)],
  ])}</section>
${places.flatMap(brokenPart)}
<h2>In these stores</h2>
${table(
  'Stores with the image',
  COLUMNS,
  places.map((place) => placeRow(place, now)),
)}
<p class="empty">Of its own: what only this image needs there, so what its removal frees. Shared: what other images of that store need, too.</p>
<h2>On one of these machines</h2>
<pre class="panel" tabindex="0" aria-label="Commands">${commands(found)}</pre>`;
}

function brokenPart({ store, image }: ImagePlace): Part {
  if (image.broken === undefined) return [];
  return html`<section class="panel bad"><p><strong>It cannot be used on <bdi>${store.host}</bdi>: ${WHY[image.broken] ?? image.broken}.</strong></p><p>The next job for it there unpacks it again. Or remove it with <code>unpackd images rm</code>.</p></section>`;
}

const WHY: Readonly<Record<string, string>> = {
  gone: 'its top snapshot is not there',
  foreign: 'the directory of its top snapshot is not its own',
  parent: 'a snapshot below its top one cannot be used',
};

function placeRow(place: ImagePlace, now: number): Row {
  const { store, image } = place;
  return {
    key: store.id,
    cells: [
      html`<bdi>${cut(store.host, 80)}</bdi>`,
      html`<bdi>${cut(store.root, 100)}</bdi>`,
      states([place]),
      html`${image.unmeasured > 0 && 'more than '}${bytes(image.own)}`,
      bytesText(image.shared),
      html`${age(new Date(image.used), now)} ago`,
      time(new Date(image.unpacked)),
      image.job === undefined ? '' : html`<a href="${jobUrl(image.job)}">${cut(image.job, 40)}</a>`,
    ],
  };
}

/** A digest tells the image apart from others with its reference. */
function commands({ reference, manifest, chainId = '' }: FoundImage): string {
  const [, hex = ''] = (manifest ?? chainId).split(':');
  const image = hex === '' ? quoted(reference) : hex.slice(0, 12);
  return ['inspect', 'pin', 'rm'].map((verb) => `unpackd images ${verb} ${image}`).join('\n');
}

/** For a shell. */
function quoted(text: string): string {
  return /^[\w.:/@+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
