import type { Progress, UnpackResult } from '../../queue/formats.ts';
import type { JobStatus } from '../../queue/job-status.ts';
import { bytesText, durationText } from '../../units.ts';
import { badge, bytes, type Column, digest, facts, type Row, table } from '../elements.ts';
import { type Html, html, type Part } from '../html.ts';

/** The images of a job with their layers: of its result if it has one, else of its progress. */

type ResultImage = UnpackResult['images'][number];
type ProgressImage = Progress['images'][number];

export function imageParts({ state, result, progress, failure }: JobStatus): Part {
  if (result !== undefined) return result.images.map((image) => resultPart(image, result.images.length));
  // while a job waits for a worker, its progress is that of an earlier run
  if (progress === undefined || state === 'waiting' || state === 'prioritized') return undefined;
  const { images } = progress;
  // with several images it is not known which of them the failed layer belongs to
  const failed = images.length === 1 && state !== 'active' ? failure?.layerIndex : undefined;
  return images.map((image) => progressPart(image, images.length, state === 'active', failed));
}

function title(image: ResultImage | ProgressImage, images: number, layers: string): Html {
  const platform = image.platform ?? (images > 1 ? 'image' : '');
  return html`<h2>Layers <small>${[platform, layers].filter((part) => part !== '').join(' · ')}</small></h2>`;
}

const number = (title: string): Column => ({ title, kind: 'number' });
const RESULT_COLUMNS: readonly Column[] = [
  number('Layer'),
  { title: 'State' },
  ...['Blob', 'Tar', 'Entries', 'Fetch', 'Inflate', 'Write', 'Total'].map(number),
  { title: 'Diff ID' },
  { title: 'Chain ID' },
];

function resultPart(image: ResultImage, images: number): Html {
  const { layers } = image;
  const applied = layers.filter(({ state }) => state === 'applied').length;
  const sum = bytesText(layers.reduce((total, { compressedBytes }) => total + compressedBytes, 0));
  const time = (milliseconds: number | undefined) => (milliseconds === undefined ? '' : durationText(milliseconds));
  const rows = layers.map(
    ({ state, compressedBytes, uncompressedBytes, entries, timings, diffId, chainId }, index): Row => ({
      key: chainId,
      cells: [
        index + 1,
        badge(state),
        bytes(compressedBytes),
        uncompressedBytes === undefined ? '' : bytes(uncompressedBytes),
        entries === undefined ? '' : entries.toLocaleString('en-US'),
        ...[timings?.fetchMs, timings?.decompressMs, timings?.writeMs, timings?.totalMs].map(time),
        digest(diffId),
        digest(chainId),
      ],
    }),
  );
  const words = `${layers.length}, ${applied} applied, ${layers.length - applied} existed, ${sum}`;
  return html`${title(image, images, words)}
${layers.length === 0 ? html`<p class="panel empty">The image has no layers, so nothing was unpacked, and there is no chain ID.</p>` : table('Layers', RESULT_COLUMNS, rows, 'dense')}
<section class="panel" aria-label="Image">${imageFacts(image)}</section>`;
}

function imageFacts(image: ResultImage): Html {
  const { chainId, manifestDigest, configDigest, names, mounts, durable } = image;
  return html`${facts([
    ['Chain ID', html`<span class="whole">${digest(chainId)}</span>`],
    ['Manifest', manifestDigest && html`<span class="whole">${digest(manifestDigest)}</span>`],
    ['Config', configDigest && html`<span class="whole">${digest(configDigest)}</span>`],
    ['Names in containerd', names && names.length > 0 && names.map((name) => html`<code>${name}</code><br>`)],
    ['On disk', durable === false && 'not synced: a power cut can take layers'],
    [
      'Mount',
      mounts &&
        mounts.length > 0 &&
        html`<details data-key="mounts"><summary>command</summary>${mounts.map(
          ({ type, source, options }) =>
            html`<code>mount -t ${type} ${source} FOLDER -o ${options.join(',')}</code><br>`,
        )}</details>`,
    ],
  ])}`;
}

const STEPS = { fetching: 'fetching', writing: 'writing', below: 'waits for the layer below' } as const;
const PROGRESS_COLUMNS: readonly Column[] = [
  number('Layer'),
  { title: 'State' },
  { title: 'Fetched' },
  number('Blob'),
  number('Unpacked'),
  { title: 'Chain ID' },
];

/** @param runs whether a worker has the job; otherwise the work on layers that are not in the store has ended */
function progressPart(image: ProgressImage, images: number, runs: boolean, failed: number | undefined): Html {
  const { layers } = image;
  const done = layers.filter(({ phase }) => phase === 'applied' || phase === 'existed').length;
  const rows = layers.map(({ phase, step, size, fetched, unpacked, chainId }, index): Row => {
    const isDone = phase === 'existed' || phase === 'applied';
    const got = isDone ? size : Math.min(fetched, size);
    const words = `layer ${index + 1}: ${bytesText(got)} of ${bytesText(size)} fetched`;
    return {
      key: chainId,
      kind: index === failed ? 'failing' : '',
      cells: [
        index + 1,
        index === failed
          ? badge('failed')
          : runs || isDone
            ? html`${badge(phase)}${runs && step && ` ${STEPS[step]}`}`
            : badge('unfinished'),
        html`<progress max="${Math.max(1, size)}" value="${size === 0 ? 1 : got}" aria-label="${words}"></progress>`,
        bytes(size),
        unpacked === 0 ? '' : bytes(unpacked),
        digest(chainId),
      ],
    };
  });
  return html`${title(image, images, `${done} of ${layers.length} in the store`)}
${table('Layers', PROGRESS_COLUMNS, rows, 'dense')}`;
}
