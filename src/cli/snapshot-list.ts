import type { ImageListing } from '../snapshots/images.ts';
import {
  isSnapshotError,
  type SnapshotFilter,
  type SnapshotInfo,
  type SnapshotKind,
  type SnapshotReader,
} from '../snapshots/snapshotter.ts';
import type { StoreReader } from '../snapshots/store.ts';
import { ageText, bytesText } from '../units.ts';
import { findSnapshot, shortHex, shortKey } from './find-snapshot.ts';
import type { Cli } from './output.ts';
import { type Cell, type Column, table } from './table.ts';

/** `unpackd snapshots ls`. */

export interface ListOptions {
  readonly kind?: SnapshotKind;
  readonly parent?: string;
}

const COLUMNS: readonly Column[] = [
  { title: 'KIND' },
  { title: 'AGE' },
  { title: 'SIZE', align: 'right' },
  // the beginning of a key is enough to name it
  { title: 'KEY', cut: 'end', least: 12 },
  { title: 'PARENT', cut: 'end', least: 9 },
  { title: 'IMAGES', cut: 'middle', least: 16 },
];

export async function listSnapshots(store: StoreReader, { kind, parent }: ListOptions, { out }: Cli): Promise<void> {
  const filter: SnapshotFilter = {
    ...(kind === undefined ? {} : { kind }),
    ...(parent === undefined ? {} : { parent: (await findSnapshot(store, parent)).name }),
  };
  const all = await store.walk();
  const images = imagesBySnapshot(all, await store.images());
  const chosen = Object.keys(filter).length === 0 ? all : await store.walk(filter);
  const snapshots = (await withSizes(store, chosen)).map((info) => ({ ...info, images: images.get(info.name) ?? [] }));
  out.result({ root: store.root, type: store.type, snapshots }, () => {
    if (snapshots.length === 0) return [nothingOf(store, all, kind, parent)];
    // a pipe gets whole names
    const [key, names] = out.width === undefined ? [whole, listed] : [shortHex, counted];
    const rows = snapshots.map(({ name, parent, created, size, images, ...info }): Cell[] => [
      stateOf(info),
      ageText(created),
      size === undefined ? '' : bytesText(size.bytes),
      key(name),
      key(parent),
      names(images),
    ]);
    return table(COLUMNS, rows, out.width);
  });
}

/** Adds the sizes that containerd knows: it has measured each committed snapshot, and tells one size in a call. */
export async function withSizes(store: StoreReader, infos: readonly SnapshotInfo[]): Promise<SnapshotInfo[]> {
  const sized: SnapshotInfo[] = [];
  for (const info of infos) {
    if (store.collectedBy === 'unpackd' || info.kind !== 'committed') sized.push(info);
    else {
      try {
        sized.push({ ...info, size: await store.usage(info.name) });
      } catch (error) {
        if (!isSnapshotError(error, 'NotFound')) throw error; // it was removed just now
        sized.push(info);
      }
    }
  }
  return sized;
}

/** The kind of a snapshot, or why it is possibly not used. */
function stateOf({
  kind,
  broken,
  suspect,
  synced,
}: Pick<SnapshotInfo, 'kind' | 'broken' | 'suspect' | 'synced'>): string {
  if (broken !== undefined) return 'broken';
  if (suspect === true) return 'suspect';
  return kind === 'committed' && !synced ? 'unsynced' : kind;
}

const whole = (key: string): string => key;
const listed = (names: readonly string[]): string => names.join(', ');
const counted = (names: readonly string[]): string =>
  names.length > 1 ? `${names[0] ?? ''} + ${names.length - 1}` : listed(names);

/** The references of the images that each snapshot is a part of, sorted. */
export function imagesBySnapshot(
  snapshots: readonly SnapshotInfo[],
  images: readonly Pick<ImageListing, 'reference' | 'chainId'>[],
): Map<string, string[]> {
  const parents = new Map(snapshots.map(({ name, parent }) => [name, parent]));
  const found = new Map<string, Set<string>>();
  for (const { reference, chainId = '' } of images) {
    for (let name = chainId; parents.has(name); name = parents.get(name) ?? '') {
      const references = found.get(name) ?? new Set();
      found.set(name, references.add(reference));
    }
  }
  return new Map([...found].map(([name, references]) => [name, [...references].sort()]));
}

/**
 * The sentence for an empty list. It has the number of snapshots that the filter left out, so that the store does not look
 * empty.
 */
function nothingOf(store: SnapshotReader, all: readonly SnapshotInfo[], kind?: SnapshotKind, parent?: string): string {
  const which = `${kind === undefined ? '' : `${kind} `}snapshots${parent === undefined ? '' : ` on ${shortKey(parent)}`}`;
  const counts = new Map<SnapshotKind, number>();
  for (const { kind } of all) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  const others = [...counts].map(([kind, count]) => `${count} ${kind}`).join(', ');
  return `no ${which} in ${store.root}${others === '' ? '' : `; the store has ${others}`}`;
}
