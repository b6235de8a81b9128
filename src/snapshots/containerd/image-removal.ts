import type { WireImage } from '../../grpc/services.ts';
import { findImageName } from '../../oci/image-name.ts';
import { nameKey } from './image-labels.ts';
import { digestName, isId } from './image-names.ts';
import { changeId } from './image-pins.ts';
import type { NamedImages } from './named-images.ts';
import { type RecordedImage, recordedImages } from './recorded-images.ts';

/**
 * Removes images of this program from containerd: the name, the name with the digest that was made beside it, the labels of both
 * on the ID, and the ID. What another program has made or pulled stays, and what it needs too. `images.ts` is the only user.
 *
 *     name → name with the digest → ID, or its labels
 *
 * If this process is killed meanwhile, the labels on the ID still tell of the rest, and it can be removed again.
 */

/** @param name of all records @param records those of one name @throws GrpcError */
export async function removeNames(images: NamedImages, name: string, records: readonly RecordedImage[]): Promise<void> {
  if (records.length === 0) return;
  const named = records.find((record) => record.named !== undefined)?.named;
  if (named !== undefined) await images.remove(named);
  await removeFromIds(images, [...records, ...(await removeBeside(images, name, records))]);
}

/**
 * Removes the name with the digest beside a tag, unless a job has named it, it is pinned, or another tag needs it. If only tags
 * of other programs need it, it becomes theirs.
 * @returns its records, if it was removed
 */
async function removeBeside(
  images: NamedImages,
  name: string,
  records: readonly RecordedImage[],
): Promise<readonly RecordedImage[]> {
  const tag = findImageName(name);
  if (tag === undefined || !('tag' in tag.version)) return [];
  const all = await images.all();
  const recorded = recordedImages(all).filter(({ record }) => record.reference !== name);
  const targets = new Set(records.map(({ record }) => record.indexDigest ?? record.manifestDigest ?? ''));
  const removed: RecordedImage[] = [];
  for (const target of targets) {
    const byDigest = digestName(tag, target);
    const beside = recorded.filter(({ record }) => record.reference === byDigest);
    if (beside.length === 0 || beside.some(({ record, label }) => record.pinned || label.beside !== true)) continue;
    const leading = all.filter((image) => image.target?.digest === target && isTagIn(image, tag));
    if (leading.some((image) => recorded.some(({ record }) => record.reference === image.name))) continue;
    const image = all.find((one) => one.name === byDigest);
    if (image !== undefined) await (leading.length === 0 ? images.remove(image) : images.disown(byDigest));
    removed.push(...beside);
  }
  return removed;
}

function isTagIn({ name }: WireImage, { host, repository }: { host: string; repository: string }): boolean {
  const tag = findImageName(name);
  return tag !== undefined && tag.host === host && tag.repository === repository && 'tag' in tag.version;
}

/** Removes the IDs of images that no name leads to any more. The others lose the labels of these records only. */
async function removeFromIds(images: NamedImages, records: readonly RecordedImage[]): Promise<void> {
  const removed = new Set(records.map(({ record }) => record.reference));
  const others = recordedImages(await images.all()).filter(
    ({ record, named }) => !removed.has(record.reference) && (named !== undefined || record.pinned),
  );
  // an image that differs in its compressed layers only has another manifest, and the same ID
  const needed = new Set(others.map(({ record }) => record.configDigest));
  for (const [configDigest = '', ofId] of Map.groupBy(records, ({ record }) => record.configDigest)) {
    const id = await images.get(configDigest);
    if (id === undefined) continue;
    if (!needed.has(configDigest) && (await isUnnamed(images, id, ofId))) await images.remove(id);
    else {
      const keys = ofId.flatMap(({ onIds }) => onIds).map(({ name }) => nameKey(name));
      await changeId(images, configDigest, () => Object.fromEntries(keys.map((key) => [key, ''])));
    }
  }
}

/** Whether no name leads to an image. @param records those of its ID */
async function isUnnamed(images: NamedImages, id: WireImage, records: readonly RecordedImage[]): Promise<boolean> {
  const targets = records.flatMap(({ record }) => [record.manifestDigest, record.indexDigest]);
  for (const digest of new Set([...targets, id.target?.digest])) {
    if (digest === undefined) continue;
    if ((await images.leadingTo(digest)).some(({ name }) => !isId(name))) return false;
  }
  return true;
}
