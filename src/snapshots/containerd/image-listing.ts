import type { WireSnapshot } from '../../grpc/services.ts';
import { ImageSizes } from '../image-sizes.ts';
import type { ImageListing, ImageRecord } from '../images.ts';
import { EXTRACTION, type Usage } from '../snapshotter.ts';
import { readLabels, recordOf } from './image-labels.ts';
import type { RecordedImage } from './recorded-images.ts';
import { kindOf } from './wire.ts';

/** The list of the images that this program has recorded in containerd, with their sizes. `images.ts` is the only user. */

/** Calls of containerd for the usage of snapshots that are under way at the same time. */
const PARALLEL = 16;

/**
 * @param extraction how the keys of our own unfinished layers begin
 * @param usageOf of a committed snapshot, which containerd has measured at the commit; `undefined` if it is gone
 */
export async function listImages(
  images: readonly RecordedImage[],
  snapshots: readonly WireSnapshot[],
  extraction: string,
  usageOf: (name: string) => Promise<Usage | undefined>,
): Promise<ImageListing[]> {
  const committed = new Map(snapshots.filter(isCommitted).map((snapshot) => [snapshot.name, snapshot]));
  const records = [...imageRecords(images), ...layerRecords(snapshots)].map((record) => {
    return { record, top: record.chainId === undefined || !committed.has(record.chainId) ? undefined : record.chainId };
  });
  const needed = namesBelow(
    records.flatMap(({ top }) => top ?? []),
    committed,
  );
  const usages = await usagesOf(needed, usageOf);
  const sizes = new ImageSizes<string>();
  for (const name of needed) sizes.add(name, committed.get(name)?.parent || undefined, usages.get(name));
  for (const { top } of records) sizes.count(top);
  const isLayer = ({ name }: WireSnapshot) => name.startsWith(extraction) || name.startsWith(EXTRACTION);
  const users = Map.groupBy(
    snapshots.filter((one) => !isCommitted(one) && !isLayer(one)),
    ({ parent }) => parent,
  );
  return records
    .map(({ record, top }): ImageListing => {
      const usedBy = (top === undefined ? [] : (users.get(top) ?? [])).map(({ name }) => name).sort();
      const isGone = record.chainId !== undefined && top === undefined;
      return { ...record, ...sizes.of(top), usedBy, ...(isGone ? { broken: 'gone' } : {}) };
    })
    .sort((a, b) => compare(a.reference, b.reference) || compare(a.platform, b.platform));
}

/** Leaves out a record that stands beside that of a tag, unless it has a pin of its own. */
function imageRecords(images: readonly RecordedImage[]): ImageRecord[] {
  const key = ({ reference, platform, manifestDigest }: ImageRecord) =>
    [repositoryOf(reference), platform, manifestDigest].join(' ');
  const tagged = new Map<string, ImageRecord>();
  for (const { record, label } of images) if (label.beside !== true) tagged.set(key(record), record);
  const isShown = ({ record, label }: RecordedImage) => {
    const tag = tagged.get(key(record));
    return label.beside !== true || tag === undefined || (record.pinned && !tag.pinned);
  };
  return images.filter(isShown).map(({ record }) => record);
}

function layerRecords(snapshots: readonly WireSnapshot[]): ImageRecord[] {
  return snapshots
    .filter(isCommitted)
    .flatMap(({ labels }) => [...readLabels(labels)].map(([name, label]) => recordOf(name, '', label)));
}

function namesBelow(tops: readonly string[], committed: ReadonlyMap<string, WireSnapshot>): Set<string> {
  const names = new Set<string>();
  for (const top of tops) {
    for (let name = top; name !== '' && !names.has(name); name = committed.get(name)?.parent ?? '') {
      if (committed.has(name)) names.add(name);
    }
  }
  return names;
}

async function usagesOf(
  names: ReadonlySet<string>,
  usageOf: (name: string) => Promise<Usage | undefined>,
): Promise<ReadonlyMap<string, Usage | undefined>> {
  const usages = new Map<string, Usage | undefined>();
  const left = names.values();
  const work = async () => {
    for (const name of left) usages.set(name, await usageOf(name));
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
  return usages;
}

const isCommitted = (snapshot: WireSnapshot): boolean => kindOf(snapshot) === 'committed';

/** The part of a full name before the tag or the digest. */
function repositoryOf(name: string): string {
  return name.replace(/(?::[^/:@]*|@[^/@]*)$/, '');
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}
