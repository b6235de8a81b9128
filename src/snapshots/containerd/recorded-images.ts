import type { WireImage } from '../../grpc/services.ts';
import { findImageName } from '../../oci/image-name.ts';
import type { ImageRecord } from '../images.ts';
import { type ImageLabel, labelsOnId, leadsTo, type NamedLabel, recordOf, validLabels } from './image-labels.ts';
import { digestName, isId } from './image-names.ts';
import { isPinned, isPinnedByOthers } from './pin-labels.ts';

/**
 * Which images this program has recorded, read from all images of a namespace. What a record says is written twice: on the name,
 * whose labels a pull takes away, and on the ID. One of them is enough. If the name of a label on an ID is gone, or leads to
 * another image, the record has the name with the digest, as if a job had moved the tag.
 */

/** A record of an image for one platform. */
export interface RecordedImage {
  readonly record: ImageRecord;
  readonly label: ImageLabel;
  /** The image with the reference as its name, if it leads to the recorded image. */
  readonly named: WireImage | undefined;
  /** The labels on the ID that say the same. */
  readonly onIds: readonly LabelOnId[];
}

export interface LabelOnId {
  readonly id: WireImage;
  /** The name in the label. */
  readonly name: string;
}

/** One record for each reference, platform and ID. @param images all of the namespace */
export function recordedImages(images: readonly WireImage[]): RecordedImage[] {
  const byName = new Map(images.map((image) => [image.name, image]));
  const found = new Map<string, RecordedImage>();
  const add = (one: RecordedImage) => {
    const { reference, platform, configDigest } = one.record;
    const key = JSON.stringify([reference, platform, configDigest]);
    const other = found.get(key);
    found.set(key, other === undefined ? one : together(other, one));
  };
  for (const image of images) {
    if (isId(image.name)) continue;
    for (const [platform, label] of validLabels(image)) {
      const id = byName.get(label.config ?? '');
      const pinned = isPinned(image) || (id !== undefined && isPinnedByOthers(id));
      add({ record: recordOf(image.name, platform, label, pinned), label, named: image, onIds: [] });
    }
  }
  for (const id of images.filter(({ name }) => isId(name))) {
    for (const label of labelsOnId(id).values()) {
      const { reference, label: current } = currentName(label, byName);
      const image = byName.get(reference);
      const named = image !== undefined && leadsTo(image, label) ? image : undefined;
      const pinned = label.pinned === true || isPinnedByOthers(id) || (named !== undefined && isPinned(named));
      const record = recordOf(reference, '', current, pinned);
      add({ record, label: current, named, onIds: [{ id, name: label.name }] });
    }
  }
  return [...found.values()];
}

/** The name by which the image of a label is found now, and the label for it. */
function currentName(
  label: NamedLabel,
  byName: ReadonlyMap<string, WireImage>,
): { readonly reference: string; readonly label: ImageLabel } {
  const image = byName.get(label.name);
  const name = findImageName(label.name);
  const digest = label.index ?? label.manifest;
  const leads = image !== undefined && leadsTo(image, label);
  if (leads || name === undefined || 'digest' in name.version || digest === undefined) {
    return { reference: label.name, label };
  }
  return { reference: digestName(name, digest), label: { ...label, beside: true } };
}

/** @param one from the name, if there is a label */
function together(one: RecordedImage, other: RecordedImage): RecordedImage {
  const pinned = one.record.pinned || other.record.pinned;
  return { ...one, record: { ...one.record, pinned }, onIds: [...one.onIds, ...other.onIds] };
}
