import type { ContainerdClient } from '../../grpc/client.ts';
import { isGrpcError, undefinedIfNotFound } from '../../grpc/errors.ts';
import type { Labels, WireDescriptor, WireImage } from '../../grpc/services.ts';
import { FOUND, LABEL_MADE, LABEL_MANAGED, LABEL_PINNED, PINNED } from './image-labels.ts';
import { LABEL_IMAGE } from './wire.ts';

/**
 * containerd's images: a name, what it leads to, and labels. Pulls and other programs make, move and remove images at the same
 * time, so each change says what it changes, and is tried again if the image has appeared or disappeared meanwhile.
 * `images.ts` is the only user.
 */
export class NamedImages {
  readonly #client: ContainerdClient;

  constructor(client: ContainerdClient) {
    this.#client = client;
  }

  /** @throws GrpcError */
  async get(name: string): Promise<WireImage | undefined> {
    return (await this.#client.images.Get({ name }).catch(undefinedIfNotFound))?.image ?? undefined;
  }

  /** The images that this program has recorded. @throws GrpcError */
  recorded(): Promise<readonly WireImage[]> {
    return this.#list(`labels.${JSON.stringify(LABEL_MADE)}`);
  }

  /** All images with this target, also those of others. @throws GrpcError */
  leadingTo(digest: string): Promise<readonly WireImage[]> {
    return this.#list(`target.digest==${digest}`);
  }

  /**
   * Makes an image, or moves it to this target.
   * @param keeps whether an image with another target stays as it is
   * @param labelsOf the labels to set, from the image that was there
   * @throws GrpcError
   */
  async put(
    name: string,
    target: WireDescriptor,
    keeps: (target: string) => boolean,
    labelsOf: (there?: WireImage) => Labels,
  ): Promise<void> {
    const create = async () => {
      const labels = { ...labelsOf(), [LABEL_MADE]: target.digest, [LABEL_MANAGED]: MANAGED };
      await this.#client.images.Create({ image: { name, target, labels } });
    };
    const change = async () => {
      const there = await this.get(name);
      if (there === undefined) return await create();
      const old = there.target?.digest ?? '';
      const stays = old !== target.digest && keeps(old);
      const now = stays ? old : target.digest;
      // only an image that this program has made, or moved to this target, is its own
      const made = old !== now || there.labels[LABEL_MADE] === now ? now : FOUND;
      const labels = { ...labelsOf(there), [LABEL_MADE]: made, [LABEL_MANAGED]: MANAGED };
      // with its target, also if that is the same: others may have moved it just now, and the labels are for this one
      await this.#update({ name, target, labels }, !stays);
    };
    for (let attempt = 1; ; attempt += 1) {
      try {
        await (attempt === 1 ? create() : change());
        return;
      } catch (error) {
        if (!isGrpcError(error, 'ALREADY_EXISTS', 'NOT_FOUND') || attempt > ATTEMPTS) throw error;
      }
    }
  }

  /** Pins an image, or not. @throws GrpcError */
  async pin(image: WireImage, pinned: boolean): Promise<void> {
    await this.#update({ ...image, labels: { [LABEL_PINNED]: pinned ? PINNED : '' } }, false);
  }

  /** Removes an image that this program has made. Of others it removes only the labels of this program. @throws GrpcError */
  async remove(image: WireImage): Promise<void> {
    const { name, labels, target } = image;
    try {
      if (labels[LABEL_MADE] === target?.digest) {
        await this.#client.images.Delete({ name });
        return;
      }
      const own = Object.keys(labels).filter((key) => key === LABEL_MADE || key.startsWith(LABEL_IMAGE));
      const none = Object.fromEntries(own.map((key) => [key, '']));
      if (own.length > 0) await this.#update({ ...image, labels: none }, false);
    } catch (error) {
      if (!isGrpcError(error, 'NOT_FOUND')) throw error;
    }
  }

  async #list(filter: string): Promise<readonly WireImage[]> {
    return (await this.#client.images.List({ filters: [filter] })).images;
  }

  /** Sets labels, where an empty value removes one. The target is always sent: without one, containerd 2.1 crashes. */
  async #update(
    { name, target, labels }: Omit<WireImage, 'createdAt' | 'updatedAt'>,
    withTarget: boolean,
  ): Promise<void> {
    const image = { name, target, labels };
    const paths = [...(withTarget ? ['target'] : []), ...Object.keys(image.labels).map((key) => `labels.${key}`)];
    await this.#client.images.Update({ image, updateMask: { paths } });
  }
}

/** How often a change is tried again. Each time somebody else has made or removed the image at that moment. */
const ATTEMPTS = 20;
/** The value of LABEL_MANAGED. */
const MANAGED = 'managed';

export function isPinned({ labels }: Pick<WireImage, 'labels'>): boolean {
  return labels[LABEL_PINNED] === PINNED;
}
