import type { Labels, WireImage } from '../../grpc/services.ts';
import { LABEL_MADE, LABEL_OWN_PIN, LABEL_PINNED, labelsOnId, PINNED } from './image-labels.ts';

/**
 * The labels by which an image in containerd is pinned, and whose pin it is. The CRI service shows an image as pinned if any of
 * its names or its ID has LABEL_PINNED. A pull takes the labels of a name away, and leaves those of the ID. So a pin is on both.
 * On the ID it belongs to the names whose labels there have `pinned`. A pin without LABEL_OWN_PIN is that of another program,
 * and is left alone. The modules of images in this folder use it.
 */

export function isPinned({ labels }: Pick<WireImage, 'labels'>): boolean {
  return labels[LABEL_PINNED] === PINNED;
}

/** Whether another program has pinned an image. Not for a name: see `isOwnPin`. */
export function isPinnedByOthers(image: Pick<WireImage, 'labels'>): boolean {
  return isPinned(image) && image.labels[LABEL_OWN_PIN] === undefined;
}

/**
 * Whether the pin of a name is that of this program. Earlier versions pinned only the name, without a label that tells who has
 * pinned it, and wrote nothing about the name on the ID.
 * @param hasLabelOnId whether the ID has a label of this name
 */
export function isOwnPin(image: Pick<WireImage, 'labels'>, hasLabelOnId: boolean): boolean {
  if (!isPinned(image)) return false;
  return LABEL_OWN_PIN in image.labels || (!hasLabelOnId && LABEL_MADE in image.labels);
}

/** What pins an image. */
export const OWN_PIN: Labels = { [LABEL_PINNED]: PINNED, [LABEL_OWN_PIN]: PINNED };
/** What removes a pin of this program. */
export const NO_PIN: Labels = { [LABEL_PINNED]: '', [LABEL_OWN_PIN]: '' };

/** What pins an image for which somebody has not done it already. */
export function pinOf(there: Pick<WireImage, 'labels'> | undefined): Labels {
  return there !== undefined && isPinned(there) ? {} : OWN_PIN;
}

/** What an ID needs with these labels, so that it is pinned as long as one of its names is. */
export function pinOfId(id: Pick<WireImage, 'name' | 'labels'>): Labels {
  if ([...labelsOnId(id).values()].some(({ pinned }) => pinned === true)) return pinOf(id);
  return LABEL_OWN_PIN in id.labels ? NO_PIN : {};
}
