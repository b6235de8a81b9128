import type { ContainerdClient } from '../../grpc/client.ts';
import { isGrpcError, undefinedIfNotFound } from '../../grpc/errors.ts';
import type { Labels, WireDescriptor, WireImage } from '../../grpc/services.ts';
import { FOUND, LABEL_MADE, LABEL_MANAGED, LABEL_NAME, LABEL_OWN_PIN, LABEL_PINNED, nameKey } from './image-labels.ts';
import { LABEL_IMAGE } from './wire.ts';

/**
 * containerd's images: a name, what it leads to, and labels. Pulls and other programs make, move and remove images at the same
 * time, so each change says what it changes, and is tried again if the image has appeared or disappeared meanwhile.
 * The modules of images in this folder use it.
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

  /** All images of the namespace, also those of others. @throws GrpcError */
  all(): Promise<readonly WireImage[]> {
    return this.#list();
  }

  /** The image with this name, and the IDs that have a label of the name. @throws GrpcError */
  withIds(name: string): Promise<readonly WireImage[]> {
    return this.#list(`name==${JSON.stringify(name)}`, `labels.${JSON.stringify(nameKey(name))}`);
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

  /**
   * Changes labels of an image, where an empty value removes one. Looks at it again after the change, because another process
   * may have changed a label at the same time that this one depends on. Does nothing if there is no such image.
   * @param labelsOf the labels as they must be, from the image that is there
   * @throws GrpcError
   */
  async change(name: string, labelsOf: (there: WireImage) => Labels): Promise<void> {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
      const there = await this.get(name);
      if (there === undefined) return;
      const wanted = Object.entries(labelsOf(there));
      const labels = Object.fromEntries(wanted.filter(([key, value]) => (there.labels[key] ?? '') !== value));
      if (Object.keys(labels).length === 0) return;
      try {
        await this.#update({ ...there, labels }, false);
      } catch (error) {
        if (!isGrpcError(error, 'NOT_FOUND')) throw error;
      }
    }
  }

  /** Removes an image that this program has made. Of others it removes only the labels of this program. @throws GrpcError */
  async remove(image: WireImage): Promise<void> {
    const { name, labels, target } = image;
    if (labels[LABEL_MADE] !== target?.digest) return this.disown(name);
    await this.#client.images.Delete({ name }).catch(undefinedIfNotFound);
  }

  /** Removes the labels of this program, and its pin. The image then is one of others. @throws GrpcError */
  disown(name: string): Promise<void> {
    return this.change(name, ({ labels }) => {
      const own = Object.keys(labels).filter((key) => OWN.has(key) || OWN_PREFIXES.some((one) => key.startsWith(one)));
      const pin = labels[LABEL_OWN_PIN] === undefined ? [] : [LABEL_PINNED];
      return Object.fromEntries([...own, ...pin].map((key) => [key, '']));
    });
  }

  /** The images for which one of the filters holds. */
  async #list(...filters: readonly string[]): Promise<readonly WireImage[]> {
    return (await this.#client.images.List({ filters })).images;
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
/** The labels of this program on an image. */
const OWN: ReadonlySet<string> = new Set([LABEL_MADE, LABEL_OWN_PIN]);
const OWN_PREFIXES: readonly string[] = [LABEL_IMAGE, LABEL_NAME];
