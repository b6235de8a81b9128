import type { Labels, WireImage } from '../../grpc/services.ts';
import { labelOnId, labelsOnId, labelText, nameKey } from './image-labels.ts';
import type { NamedImages } from './named-images.ts';
import { isOwnPin, NO_PIN, OWN_PIN, pinOf, pinOfId } from './pin-labels.ts';
import type { RecordedImage } from './recorded-images.ts';

/**
 * Sets and removes pins of images in containerd: on the name, where people look for it, and on the ID, where a pull leaves it.
 *
 *     pin       the ID → the name
 *     unpin     the name → the ID
 *
 * So the ID is pinned as long as the name is, also if this process is killed between the two. `images.ts` is the only user.
 */

/** Changes labels of names on an ID, and then its pin. @throws GrpcError */
export function changeId(images: NamedImages, id: string, labelsOf: (there: WireImage) => Labels): Promise<void> {
  return images.change(id, (there) => {
    const labels = labelsOf(there);
    return { ...labels, ...pinOfId({ name: there.name, labels: { ...there.labels, ...labels } }) };
  });
}

/** Pins a name. @param records all of the name @throws GrpcError */
export async function pinName(images: NamedImages, records: readonly RecordedImage[]): Promise<void> {
  const named = nameOf(records);
  if (named !== undefined && isOwnPin(named, hasLabelOnId(records))) {
    // before the ID has a label of the name: afterwards, nobody could tell whose pin it is
    await images.change(named.name, () => OWN_PIN);
  }
  for (const { record, label } of records) {
    const { reference, platform, configDigest } = record;
    const key = nameKey(reference);
    const pinned = labelText(key, labelOnId(label, reference, platform, true));
    if (configDigest !== undefined) await changeId(images, configDigest, () => ({ [key]: pinned }));
  }
  if (named !== undefined) await images.change(named.name, pinOf);
}

/** Removes the pins of this program from a name. @param records all of the name @throws GrpcError */
export async function unpinName(images: NamedImages, records: readonly RecordedImage[]): Promise<void> {
  const named = nameOf(records);
  if (named !== undefined && isOwnPin(named, hasLabelOnId(records))) await images.change(named.name, () => NO_PIN);
  for (const { id, name } of records.flatMap(({ onIds }) => onIds)) await unpinOnId(images, id.name, name);
}

function nameOf(records: readonly RecordedImage[]): WireImage | undefined {
  return records.find(({ named }) => named !== undefined)?.named;
}

function hasLabelOnId(records: readonly RecordedImage[]): boolean {
  return records.some(({ onIds }) => onIds.length > 0);
}

/** Removes the pin of one name on an ID. @throws GrpcError */
export async function unpinOnId(images: NamedImages, id: string, name: string): Promise<void> {
  const key = nameKey(name);
  await changeId(images, id, (there) => {
    const label = [...labelsOnId(there).values()].find((one) => one.name === name);
    return label?.pinned === true ? { [key]: labelText(key, { ...label, pinned: false }) } : {};
  });
}
