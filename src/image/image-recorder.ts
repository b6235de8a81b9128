import { formatPlatform } from '../oci/platform.ts';
import { type ImageKey, type ImageRecords, isOutdated, type KnownImage } from '../snapshots/images.ts';
import { isSnapshotError } from '../snapshots/snapshotter.ts';
import type { ResolvedImage } from './request.ts';

/** What the store records about an image besides what its documents say. */
export interface ImageOrigin {
  readonly reference: string;
  /** For people; without secrets. */
  readonly source: string;
  readonly job?: string | undefined;
}

type Records = Pick<ImageRecords, 'lookUpImage' | 'recordImage'>;

/**
 * Looks images up in the store, and records there which it has and that they are used. The unpacker calls it before a job gets
 * its result.
 */
export class ImageRecorder {
  readonly #store: Records;
  /** The keys of images, without the reference. An image has another reference in another job. */
  readonly #keys = new WeakMap<readonly ResolvedImage[], readonly RecordKey[]>();

  constructor(store: Records) {
    this.#store = store;
  }

  /** @returns `undefined` if the store cannot use the top snapshot of one */
  async lookUp(images: readonly ResolvedImage[], reference: string): Promise<readonly KnownImage[] | undefined> {
    const found: KnownImage[] = [];
    for (const key of this.#keysOf(images)) {
      const known = await this.#store.lookUpImage(withReference(key, reference));
      if (known === undefined) return undefined;
      found.push(known);
    }
    return found;
  }

  /**
   * Records an image that is in the store, and that it is used now.
   * @param known as `lookUp` has returned it, to write nothing if that is not needed
   * @param store with the lease of the caller; default: the store of this object
   * @throws SnapshotError NotFound if the store lacks its top snapshot; UnpackError STORE_FULL, STORE_FAILED
   */
  async record(
    images: readonly ResolvedImage[],
    index: number,
    { reference, source, job }: ImageOrigin,
    { known, store = this.#store }: { readonly known?: KnownImage | undefined; readonly store?: Records } = {},
  ): Promise<void> {
    const [image, key] = [images[index], this.#keysOf(images)[index]];
    if (image === undefined || key === undefined) throw new RangeError(`there is no image ${index}`);
    if (known !== undefined && isFresh(known)) return;
    const { configDigest, indexDigest, documents } = image;
    const record = { ...withReference(key, reference), configDigest, indexDigest, source, job };
    try {
      await store.recordImage(record, documents);
    } catch (error) {
      // the image is recorded, so only its time of use stays too old, until a job can write it
      if (known?.used === undefined || isSnapshotError(error, 'NotFound')) throw error;
    }
  }

  #keysOf(images: readonly ResolvedImage[]): readonly RecordKey[] {
    const known = this.#keys.get(images);
    if (known !== undefined) return known;
    const platforms = new Set<string>();
    const keys = images.map((image): RecordKey => {
      const platform = image.platform === undefined ? '' : formatPlatform(image.platform);
      const isFirst = !platforms.has(platform);
      platforms.add(platform);
      const { manifestDigest } = image;
      return { platform, chainId: image.layers.at(-1)?.chainId, manifestDigest, isFirst };
    });
    this.#keys.set(images, keys);
    return keys;
  }
}

/** Whether an image is recorded, and its time of use needs no change. */
export function isFresh({ used }: KnownImage): boolean {
  return used !== undefined && !isOutdated(used);
}

interface RecordKey extends Omit<ImageKey, 'reference'> {
  /** Whether the image is the first one of its platform. An index can have several. */
  readonly isFirst: boolean;
}

/** The first image of a platform has the reference itself, and each further one `REFERENCE@DIGEST`. */
function withReference({ isFirst, ...key }: RecordKey, reference: string): ImageKey {
  if (isFirst) return { ...key, reference };
  return { ...key, reference: `${reference.replace(/@.*$/, '')}@${key.manifestDigest}` };
}
