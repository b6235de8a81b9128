import { shortDigest } from '../oci/digest.ts';
import type { PushProgress } from '../push/push.ts';
import type { Progress, UnpackResult, WaitingFor } from '../queue/formats.ts';
import type { JobStatus } from '../queue/job-status.ts';
import { waitingSentence } from '../queue/parked-attempt.ts';
import { bytesText, count, durationText } from '../units.ts';
import type { Speed } from './pace.ts';
import { type Cell, type Column, table } from './table.ts';

/** Formats progress and result of a job, and of a push, for a terminal. The commands and the demo use it. */

const BAR = 24;

/** A terminal with fewer columns has a percentage instead of a bar, because what happens to a layer is more important. */
const NARROW = 72;

/**
 * The progress of a job as lines for a terminal: totals, then a line for each layer, bottom-most first.
 * @param speed if known @param width of the terminal in columns; default: wide
 */
export function progressLines(progress: Progress, speed?: Speed, width = NARROW): string[] {
  const { attempt, attempts, layersDone, layersTotal, bytesFetched, bytesTotal } = progress;
  if (progress.waiting !== undefined) return [waitingText(progress.waiting)];
  const tries = attempt > 1 ? `, attempt ${attempt} of ${attempts}` : '';
  if (progress.phase === 'resolving') return [`resolving the image${tries}`];
  const sum = `${layersDone} of ${layersTotal} layers, ${bytesText(bytesFetched)} of ${bytesText(bytesTotal)}${speedText(speed)}${tries}`;
  return [
    sum,
    ...progress.images.flatMap((image) => [
      ...(progress.images.length > 1
        ? [`${image.platform ?? shortDigest(image.chainId ?? image.manifestDigest ?? 'image')}`]
        : []),
      ...image.layers.map((layer, index) => {
        const fetched = layer.phase === 'existed' ? layer.size : layer.fetched;
        const number = String(index + 1).padStart(String(image.layers.length).length);
        const size = bytesText(layer.size).padStart(10);
        if (width < NARROW) return `  ${number}  ${percent(fetched, layer.size)}  ${stepText(layer)}`;
        return `  ${number}  ${bar(fetched, layer.size)} ${size}  ${stepText(layer).padEnd(STEP)}  ${shortDigest(layer.chainId)}`;
      }),
    ]),
  ];
}

/**
 * The progress of a push as lines for a terminal: totals, then a line for each layer.
 * @param speed if known @param width as for `progressLines`
 */
export function pushLines({ sent, skipped, total, layers }: PushProgress, speed?: Speed, width = NARROW): string[] {
  return [
    `${bytesText(sent + skipped)} of ${bytesText(total)}${speedText(speed)}`,
    ...layers.map(({ digest, size, sent, state }, index) => {
      const number = String(index + 1).padStart(String(layers.length).length);
      const done = state === 'existed' ? size : sent;
      if (width < NARROW) return `  ${number}  ${percent(done, size)}  ${state.padEnd(7)}  ${bytesText(size)}`;
      return `  ${number}  ${bar(done, size)} ${bytesText(size).padStart(10)}  ${state.padEnd(7)}  ${shortDigest(digest)}`;
    }),
  ];
}

/** What a parked job waits for, and since when. */
function waitingText(waiting: WaitingFor): string {
  const [since, until] = [waiting.since, waiting.until].map((time) => new Date(time).toISOString());
  return `${waitingSentence(waiting)}; the job has waited since ${since}, and is tried again at ${until} or when the layer is free`;
}

type LayerProgress = Progress['images'][number]['layers'][number];

/** What is done for a layer now. */
function stepText({ phase, step }: LayerProgress): string {
  if (step === 'below') return 'waits for the layer below';
  if (phase === 'applying') return step ?? phase;
  return phase === 'queued' ? 'waits for a thread' : phase === 'waiting' ? 'waits for another job' : phase;
}

/** The width of the longest text of a step. */
const STEP = 'waits for the layer below'.length;

/** `, 12.3 MiB/s, 14 s left`. */
function speedText(speed: Speed | undefined): string {
  if (speed === undefined) return '';
  const left = speed.left === undefined ? '' : `, ${durationText(Math.ceil(speed.left / 1000) * 1000)} left`;
  return `, ${bytesText(Math.round(speed.bytesPerSecond))}/s${left}`;
}

/** Where a job is that waits, or that its worker is silent. Empty if there is nothing to tell. @param now milliseconds since 1970 */
export function placeLines({ state, ahead, due, silentSince, progress }: JobStatus, now = Date.now()): string[] {
  if (state === 'waiting' || state === 'prioritized') {
    const place = ahead === undefined ? '' : ahead === 0 ? ', next in the queue' : `, ${count(ahead, 'job')} before it`;
    return [`waits for a worker${place}`];
  }
  if (state === 'delayed' && due !== undefined && progress?.waiting === undefined) {
    return [`delayed until ${due.toISOString()} (${durationText(Math.max(0, due.getTime() - now))})`];
  }
  if (silentSince === undefined) return [];
  // the name comes after the time, because it can be long, and a narrow terminal cuts the line
  const who = progress === undefined ? '' : `: ${progress.worker}`;
  const time = `${silentSince.toISOString().slice(0, 19)}Z`;
  const since = `${time} (${durationText(Math.max(0, now - silentSince.getTime()))})`;
  return [`worker silent since ${since}${who}; another worker takes the job when its lock has expired`];
}

/** ` 50%`. */
function percent(done: number, of: number): string {
  return `${of === 0 ? 100 : Math.min(100, Math.floor((100 * done) / of))}%`.padStart(4);
}

function bar(done: number, of: number): string {
  const filled = of === 0 ? BAR : Math.min(BAR, Math.floor((done / of) * BAR));
  return `[${'#'.repeat(filled)}${'.'.repeat(BAR - filled)}]`;
}

/** The result of a job as lines for a terminal: a table of the layers, and the store that has the image. */
export function resultLines(result: UnpackResult): string[] {
  const attempts = result.attempts > 1 ? ` in attempt ${result.attempts}` : '';
  return [
    ...result.images.flatMap((image) => [
      `${[result.image, image.platform, image.manifestDigest && shortDigest(image.manifestDigest)].filter(Boolean).join('  ')}`,
      ...(image.chainId === undefined
        ? ['  no layers: nothing to unpack, no chain ID']
        : [...layerTable(image).map((line) => `  ${line}`), `  chain ID ${image.chainId}`]),
      ...(image.names ?? []).map((name) => `  image ${name}`),
      ...(image.durable === false ? ['  not synced to disk: a power cut can take layers'] : []),
    ]),
    `done in ${durationText(result.durationMs)}${attempts} by ${result.worker.name}`,
    storeLine(result.store),
    ...result.warnings.map((warning) => `warning: ${warning}`),
  ];
}

function storeLine({ root, snapshotter, containerd }: UnpackResult['store']): string {
  if (containerd === undefined) return `store ${root} (${snapshotter})`;
  return `store ${root} (${containerd.snapshotter} of containerd, namespace ${containerd.namespace})`;
}

const right = (title: string): Column => ({ title, align: 'right' });
const LAYER_COLUMNS: readonly Column[] = [
  right('LAYER'),
  { title: 'STATE' },
  ...['BLOB', 'TAR', 'ENTRIES', 'FETCH', 'INFLATE', 'WRITE', 'TOTAL'].map(right),
  { title: 'DIFF ID' },
];

function layerTable(image: UnpackResult['images'][number]): string[] {
  const time = (milliseconds: number | undefined) => (milliseconds === undefined ? '' : durationText(milliseconds));
  const rows = image.layers.map((layer, index): Cell[] => [
    index + 1,
    layer.state,
    bytesText(layer.compressedBytes),
    layer.uncompressedBytes === undefined ? '' : bytesText(layer.uncompressedBytes),
    layer.entries === undefined ? '' : layer.entries.toLocaleString('en-US'),
    time(layer.timings?.fetchMs),
    time(layer.timings?.decompressMs),
    time(layer.timings?.writeMs),
    time(layer.timings?.totalMs),
    shortDigest(layer.diffId),
  ]);
  return table(LAYER_COLUMNS, rows);
}
