import { chainIds, type DiffId, isDigest } from '../oci/digest.ts';
import { parseConfig, runtimeConfig } from '../oci/image-config.ts';
import { printable } from '../printable.ts';
import type { ImageListing } from '../snapshots/images.ts';
import { LABEL_DIFF_ID, type SnapshotInfo, type Usage } from '../snapshots/snapshotter.ts';
import type { StoreReader } from '../snapshots/store.ts';
import { ageText, bytesText } from '../units.ts';
import { shortHex } from './find-snapshot.ts';
import { mountedAt, type PlacedImage, sizeText } from './image-list.ts';
import { withSizes } from './snapshot-list.ts';
import { type Cell, type Column, table } from './table.ts';

/** `unpackd images inspect`: one image with its documents, for a program and for a person. */

export type DocumentName = 'manifest' | 'config' | 'index';
export const DOCUMENT_NAMES: readonly DocumentName[] = ['manifest', 'config', 'index'];

/** A document as JSON values. Its fields are those of any program, so each is checked before it is shown. */
type Json = Readonly<Record<string, unknown>>;

export interface InspectedImage extends PlacedImage {
  /** Bottom-most first. */
  readonly layers: readonly InspectedLayer[];
  /** As `crane config` and `crane manifest` show them. Absent if the store does not have them. */
  readonly config?: Json;
  readonly manifest?: Json;
}

interface InspectedLayer {
  readonly diffId: string;
  /** The name of its snapshot. */
  readonly chainId: string;
  /** Absent if the snapshot is not there, or its size is not known. */
  readonly size?: Usage;
  /** Its descriptor in the manifest. */
  readonly blob?: Json;
}

/** Adds the documents and the layers to an image. */
export async function inspectImage(store: StoreReader, image: ImageListing): Promise<InspectedImage> {
  const [configBytes, manifestBytes] = [
    await documentOf(store, image, 'config'),
    await documentOf(store, image, 'manifest'),
  ];
  const [config, manifest] = [asObject(parsed(configBytes)), asObject(parsed(manifestBytes))];
  const snapshots = new Map((await store.walk()).map((info) => [info.name, info]));
  const diffs = diffsOf(configBytes) ?? diffsBelow(image.chainId, snapshots);
  return {
    ...image,
    ...mountedAt(image, (await store.mounted()).places),
    layers: layersOf(diffs, manifest, await sizesOf(store, diffs, snapshots)),
    ...(config === undefined ? {} : { config }),
    ...(manifest === undefined ? {} : { manifest }),
  };
}

async function sizesOf(
  store: StoreReader,
  diffs: readonly DiffId[],
  snapshots: ReadonlyMap<string, SnapshotInfo>,
): Promise<ReadonlyMap<string, Usage | undefined>> {
  const layers = chainIds(diffs).flatMap((chainId) => snapshots.get(chainId) ?? []);
  return new Map((await withSizes(store, layers)).map(({ name, size }) => [name, size]));
}

function layersOf(
  diffs: readonly DiffId[],
  manifest: Json | undefined,
  sizes: ReadonlyMap<string, Usage | undefined>,
): InspectedLayer[] {
  const blobs = asList(manifest?.layers);
  return chainIds(diffs).map((chainId, index) => {
    const size = sizes.get(chainId);
    // a manifest can also list blobs that are not layers: then it does not tell which blob has which DiffID
    const blob = blobs.length === diffs.length ? asObject(blobs[index]) : undefined;
    return {
      diffId: diffs[index] ?? '',
      chainId,
      ...(size === undefined ? {} : { size }),
      ...(blob === undefined ? {} : { blob }),
    };
  });
}

/** The DiffIDs in a config; `undefined` if there is no config, or it is wrong. */
function diffsOf(config: Uint8Array | undefined): readonly DiffId[] | undefined {
  try {
    return config && parseConfig(config, 'config').diffIds;
  } catch {
    return undefined;
  }
}

/** The DiffIDs of a snapshot and those below it, bottom-most first. For an image without a config. */
function diffsBelow(chainId = '', snapshots: ReadonlyMap<string, SnapshotInfo>): DiffId[] {
  const diffs: DiffId[] = [];
  for (let info = snapshots.get(chainId); info !== undefined; info = snapshots.get(info.parent)) {
    const diff = info.labels[LABEL_DIFF_ID] ?? '';
    if (isDigest(diff)) diffs.unshift(diff as string as DiffId); // `as`: the label is the digest of a tar
  }
  return diffs;
}

/** The bytes of one document; `undefined` if the image has none. */
export async function documentOf(
  store: StoreReader,
  { manifestDigest, configDigest, indexDigest }: ImageListing,
  name: DocumentName,
): Promise<Uint8Array | undefined> {
  const digest = { manifest: manifestDigest, config: configDigest, index: indexDigest }[name];
  return digest === undefined ? undefined : await store.document(digest);
}

/** The lines for a person. @param width of the terminal */
export function imageLines(image: InspectedImage, width: number | undefined): string[] {
  // by the rules of a job's result: the case of letters in names does not matter
  const runtime = image.config === undefined ? {} : runtimeConfig(image.config);
  const line = (name: string, value: unknown): string[] => {
    const text = valueText(value);
    return text === '' ? [] : [`${name.padEnd(12)}${printable(text)}`];
  };
  const lines = (name: string, values: readonly unknown[]): string[] => values.flatMap((value) => line(name, value));
  return [
    ...line('reference', image.reference),
    ...line('platform', image.platform),
    ...line('manifest', image.manifestDigest),
    ...line('config', image.configDigest),
    ...line('index', image.indexDigest),
    ...line('chain ID', image.chainId ?? '(none: the image has no layers)'),
    ...line('source', image.source),
    ...line('job', image.job),
    ...line('size', `${sizeText(image, image.own.bytes)} of its own, ${sizeText(image, image.shared.bytes)} shared`),
    ...line('unpacked', timeText(image.unpacked)),
    ...line('used', timeText(image.used)),
    ...line('state', stateText(image)),
    ...line('mounted', image.mounted && `${image.mounted.point}, as process ${image.mounted.process} sees it`),
    ...lines('used by', image.usedBy),
    ...line('created', image.config?.created),
    ...line('entrypoint', runtime.entrypoint),
    ...line('cmd', runtime.cmd),
    ...lines('env', runtime.env ?? []),
    ...line('user', runtime.user),
    ...line('workdir', runtime.workingDir),
    ...lines('port', runtime.exposedPorts ?? []),
    ...lines('volume', runtime.volumes ?? []),
    ...line('stop signal', runtime.stopSignal),
    ...lines(
      'label',
      Object.entries(runtime.labels ?? {}).map(([name, value]) => `${name}=${value}`),
    ),
    ...layerTable(image.layers, width === undefined ? undefined : width - 2).map((text) => `  ${text}`),
  ];
}

const LAYER_COLUMNS: readonly Column[] = [
  { title: 'LAYER', align: 'right' },
  { title: 'SIZE', align: 'right' },
  { title: 'BLOB', align: 'right' },
  { title: 'DIFF ID', cut: 'end' },
  { title: 'CHAIN ID', cut: 'end' },
  { title: 'MEDIA TYPE', cut: 'middle' },
];

function layerTable(layers: readonly InspectedLayer[], width: number | undefined): string[] {
  if (layers.length === 0) return [];
  const digest = width === undefined ? (whole: string) => whole : shortHex;
  const rows = layers.map(({ diffId, chainId, size, blob = {} }, index): Cell[] => [
    index + 1,
    size === undefined ? '' : bytesText(size.bytes),
    typeof blob.size === 'number' ? bytesText(blob.size) : '',
    digest(diffId),
    digest(chainId),
    valueText(blob.mediaType),
  ]);
  return table(LAYER_COLUMNS, rows, width);
}

function stateText({ pinned, broken }: InspectedImage): string {
  const states = [...(pinned ? ['pinned'] : []), ...(broken === undefined ? [] : [BROKEN[broken]])];
  return states.join(', ');
}

const BROKEN = {
  gone: 'broken: its top snapshot is not there; a job unpacks it again',
  foreign: 'broken: the directory of its top snapshot is not its own; a job unpacks it again',
  parent: 'broken: a snapshot below its top one cannot be used; a job unpacks it again',
} as const;

const timeText = (time: Date): string => `${time.toISOString()}, ${ageText(time)} ago`;

/** A text as it is, a list as JSON, everything that is missing or empty as "". */
function valueText(value: unknown): string {
  if (typeof value === 'string') return value;
  if (value === undefined || value === null || (Array.isArray(value) && value.length === 0)) return '';
  return JSON.stringify(value);
}

function parsed(bytes: Uint8Array | undefined): unknown {
  if (bytes === undefined) return undefined;
  try {
    return JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    return undefined;
  }
}

function asObject(value: unknown): Json | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined; // `as`: an object
}

function asList(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
