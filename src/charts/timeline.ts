import { shortDigest } from '../oci/digest.ts';
import type { UnpackResult } from '../queue/formats.ts';
import { bytesText, durationText } from '../units.ts';
import { AXIS, document, element, FAINT, GRID, HATCH, INK, line, rect, text, ticks } from './svg.ts';
import { throughputPanel } from './timeline-throughput.ts';

type Layer = UnpackResult['images'][number]['layers'][number];
type Timeline = NonNullable<Layer['timeline']>;

const WIDTH = 1280;
const LEFT = 270;
const RIGHT = 190;
const TOP = 92;
const PLOT = WIDTH - LEFT - RIGHT;
/** Height of a row with its gap, in pixels. Many layers get lower rows. */
const ROW = 44;
const LEAST_ROW = 12;
const ROWS_HEIGHT = 1200;
const PANEL = 110;
/** Pixels, approximately: a character of the legend, and the column of one of the three times beside a row. */
const CHARACTER = 6.2;
const SHARE = 42;
/** Minimum width of a commit in pixels, so that it can be seen. */
const MIN_COMMIT = 2;

const COLORS = { fetch: '#3d85c6', inflate: '#f0a030', write: '#3f9f6b', commit: '#8e4fa8', wait: '#c9ced6' } as const;
/** A darker orange for text, because orange text is too pale. */
const DARK_INFLATE = '#b86e00';

/**
 * Draws the timeline of a job as SVG: a row for each layer, against seconds. The colour shows what the thread of the layer
 * did or waited for. It shows why a job was slow.
 */
export function timelineSvg(result: UnpackResult): string {
  const rows = result.images.flatMap((image) => image.layers.map((layer, index) => ({ image, layer, index })));
  const end = Math.max(1, ...rows.map(({ layer }) => layer.timeline?.committedMs ?? 0));
  const height = Math.max(LEAST_ROW, Math.min(ROW, ROWS_HEIGHT / Math.max(1, rows.length)));
  const x = (milliseconds: number): number => LEFT + (milliseconds / end) * PLOT;
  const bottom = TOP + rows.length * height;
  const timelines = rows.flatMap(({ layer }) => layer.timeline ?? []);
  return document(WIDTH, bottom + 40 + PANEL + 46, [
    HATCHING,
    ...heading(result),
    ...axis(end, x, TOP, bottom),
    ...rows.flatMap(({ image, layer, index }, row) => {
      const name = `${result.images.length > 1 ? `${image.platform ?? ''} ` : ''}${index + 1}`;
      return layerRow(layer, name, TOP + row * height, height, x);
    }),
    ...throughputPanel(timelines, end, { x, left: LEFT, right: LEFT + PLOT, top: bottom + 40, height: PANEL }),
  ]);
}

/** Waiting is hatched, to distinguish it from work. */
const HATCHING = element(
  'defs',
  {},
  element(
    'pattern',
    { id: 'wait', width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
    rect(0, 0, 6, 6, HATCH) + rect(0, 0, 2, 6, { fill: COLORS.wait }),
  ),
);

function heading(result: UnpackResult): string[] {
  const layers = result.images.flatMap((image) => image.layers);
  const applied = layers.filter(({ state }) => state === 'applied');
  const sum = (pick: (layer: Layer) => number) => bytesText(applied.reduce((total, layer) => total + pick(layer), 0));
  const facts = [
    result.images
      .map((image) => image.platform ?? shortDigest(image.chainId ?? image.manifestDigest ?? 'image'))
      .join(', '),
    `${applied.length} of ${layers.length} layers applied`,
    `${sum((layer) => layer.compressedBytes)} → ${sum((layer) => layer.uncompressedBytes ?? 0)}`,
    `${durationText(result.durationMs)} by ${result.worker.name}`,
    result.startedAt,
  ];
  const legend = [
    ['fetch', 'waiting for bytes of the blob', COLORS.fetch],
    ['inflate', 'decompressing', COLORS.inflate],
    ['write', 'hashing, writing files', COLORS.write],
    ['commit', 'syncing to disk, committing', COLORS.commit],
    ['wait', 'for a thread, or for the lower layers', 'url(#wait)'],
  ] as const;
  let at = 16;
  const keys = legend.flatMap(([name, meaning, fill]) => {
    const label = `${name}: ${meaning}`;
    const parts = [rect(at, 58, 12, 12, { fill }), text(at + 17, 68, label, { ...INK, 'font-size': 11 })];
    at += 17 + label.length * CHARACTER + 14;
    return parts;
  });
  return [
    text(16, 26, result.image, { 'font-size': 17, 'font-weight': 600, ...INK }),
    text(16, 46, facts.join(' · '), FAINT),
    ...keys,
  ];
}

function axis(end: number, x: (milliseconds: number) => number, top: number, bottom: number): string[] {
  const seconds = ticks(end / 1000, 10);
  return [
    ...seconds.flatMap((second) => [
      line(x(second * 1000), top - 6, x(second * 1000), bottom, GRID),
      text(x(second * 1000), bottom + 16, `${second} s`, { 'text-anchor': 'middle', ...FAINT, 'font-size': 11 }),
    ]),
    line(LEFT, bottom, LEFT + PLOT, bottom, AXIS),
  ];
}

function layerRow(layer: Layer, name: string, top: number, height: number, x: (ms: number) => number): string[] {
  const { timeline, timings } = layer;
  const bar = { top: top + height * 0.12, height: height * 0.76 };
  const middle = top + height / 2;
  const roomy = height >= 30;
  const small = Math.min(12, height - 1);
  const sizes = [
    layer.uncompressedBytes === undefined
      ? bytesText(layer.compressedBytes)
      : `${bytesText(layer.compressedBytes)} → ${bytesText(layer.uncompressedBytes)}`,
    ...(layer.entries === undefined ? [] : [`${layer.entries.toLocaleString('en-US')} entries`]),
  ].join(', ');
  const end = { 'text-anchor': 'end', x: LEFT - 12 } as const;
  const label = roomy
    ? [
        text(0, middle - 3, `${name}  ${shortDigest(layer.blobDigest)}`, { ...end, ...INK }),
        text(0, middle + 13, sizes, { ...end, ...FAINT, 'font-size': 11 }),
      ]
    : [text(0, middle + small / 3, `${name}  ${sizes}`, { ...end, ...INK, 'font-size': small })];
  if (timeline === undefined) {
    const state = layer.state === 'existed' ? 'existed' : 'no times recorded';
    return [...label, text(LEFT + 8, middle + 4, state, { ...FAINT, 'font-style': 'italic', 'font-size': small })];
  }
  const waiting = (from: number, to: number): string =>
    rect(x(from), middle - height * 0.14, x(to) - x(from), height * 0.28, { fill: 'url(#wait)' });
  const commitWidth = Math.max(MIN_COMMIT, x(timeline.committedMs) - x(timeline.committingMs));
  const shares =
    timings === undefined
      ? []
      : [
          [timings.fetchMs, COLORS.fetch] as const,
          [timings.decompressMs, DARK_INFLATE] as const,
          [timings.writeMs, COLORS.write] as const,
        ];
  const total = `${seconds(timeline.unpackedMs - timeline.startedMs)} s`;
  return [
    ...label,
    waiting(timeline.queuedMs, timeline.startedMs),
    waiting(timeline.unpackedMs, timeline.committingMs),
    ...slices(timeline, bar, x),
    rect(x(timeline.committingMs), bar.top, commitWidth, bar.height, { fill: COLORS.commit }),
    text(LEFT + PLOT + 14, middle + (roomy ? -3 : small / 3), total, { ...INK, 'font-size': small }),
    ...(roomy
      ? shares.map(([share, fill], index) =>
          text(LEFT + PLOT + 14 + index * SHARE, middle + 13, seconds(share), { fill, 'font-size': 11 }),
        )
      : []),
  ];
}

/** The shares of fetch, inflate and write between two samples, stacked. One path for each colour keeps the file small. */
function slices(timeline: Timeline, bar: { readonly top: number; readonly height: number }, x: (ms: number) => number) {
  const paths = { write: '', inflate: '', fetch: '' };
  let [from, fetched, inflated] = [timeline.startedMs, 0, 0];
  for (const [at, , , fetchMs, decompressMs] of timeline.samples) {
    const passed = at - from;
    if (passed <= 0) continue;
    // messages between threads arrive late, so a share can exceed the interval: limit the share to the interval
    const fetch = Math.min(1, Math.max(0, (fetchMs - fetched) / passed));
    const inflate = Math.min(1 - fetch, Math.max(0, (decompressMs - inflated) / passed));
    // every share starts at the top, and smaller shares cover larger shares, so that rounding leaves no gaps
    for (const [name, share] of [
      ['write', 1],
      ['inflate', fetch + inflate],
      ['fetch', fetch],
    ] as const) {
      const height = share * bar.height;
      if (height > 0) paths[name] += `M${one(x(from))} ${one(bar.top)}H${one(x(at))}v${one(height)}H${one(x(from))}z`;
    }
    [from, fetched, inflated] = [at, fetchMs, decompressMs];
  }
  return (['write', 'inflate', 'fetch'] as const)
    .filter((name) => paths[name] !== '')
    .map((name) => element('path', { d: paths[name], fill: COLORS[name], 'shape-rendering': 'crispEdges' }));
}

const one = (value: number): string => value.toFixed(1);
const seconds = (milliseconds: number): string => (milliseconds / 1000).toFixed(milliseconds < 9950 ? 2 : 1);
