import { formatPlatform, hostPlatform, suitability } from '../oci/platform.ts';
import {
  type ImageDigests,
  type ImageRecords,
  isOutdated,
  type KnownImage,
  type NewImage,
} from '../snapshots/images.ts';
import { isSnapshotError } from '../snapshots/snapshotter.ts';
import type { ResolvedImage } from './request.ts';

/** What the store records about an image besides what its documents say. */
export interface ImageOrigin {
  readonly reference: string;
  /** For people; without secrets. */
  readonly source: string;
  readonly job?: string | undefined;
}

type Records = Pick<ImageRecords, 'lookUpImage' | 'recordImage' | 'keepDocuments' | 'namesOf'>;

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

  /**
   * @returns `undefined` if the store cannot use the top snapshot of one
   * @throws UnpackError INVALID_JOB if the store cannot record one under this reference
   */
  async lookUp(images: readonly ResolvedImage[], reference: string): Promise<readonly KnownImage[] | undefined> {
    const found: KnownImage[] = [];
    for (const key of this.#keysOf(images)) {
      const known = await this.#store.lookUpImage(withReference(key, reference));
      if (known === undefined) return undefined;
      found.push(known);
    }
    return found;
  }

  /** Call it before a layer of the images is downloaded. @throws as `ImageRecords.keepDocuments` */
  async keepDocuments(images: readonly ResolvedImage[], origin: ImageOrigin, store: Records): Promise<void> {
    for (const [index, { documents }] of images.entries()) {
      await store.keepDocuments(this.#newImage(images, index, origin), documents);
    }
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
    origin: ImageOrigin,
    { known, store = this.#store }: { readonly known?: KnownImage | undefined; readonly store?: Records } = {},
  ): Promise<void> {
    if (known !== undefined && isFresh(known)) return;
    const record = this.#newImage(images, index, origin);
    try {
      await store.recordImage(record, images[index]?.documents ?? new Map());
    } catch (error) {
      // the image is recorded, so only its time of use stays too old, until a job can write it
      if (known?.used === undefined || isSnapshotError(error, 'NotFound')) throw error;
    }
  }

  /** The names of each image when it is recorded, as `ImageRecords.namesOf` returns them. */
  namesOf(images: readonly ResolvedImage[], reference: string): readonly (readonly string[])[] {
    return this.#keysOf(images).map((key) => this.#store.namesOf(withReference(key, reference)));
  }

  #newImage(images: readonly ResolvedImage[], index: number, { reference, source, job }: ImageOrigin): NewImage {
    const key = this.#keysOf(images)[index];
    if (key === undefined) throw new RangeError(`there is no image ${index}`);
    return { ...withReference(key, reference), source, job };
  }

  #keysOf(images: readonly ResolvedImage[]): readonly RecordKey[] {
    const known = this.#keys.get(images);
    if (known !== undefined) return known;
    const platforms = new Set<string>();
    const tagged = images.find(runsHere) ?? images[0];
    const keys = images.map((image): RecordKey => {
      const platform = image.platform === undefined ? '' : formatPlatform(image.platform);
      const isFirst = !platforms.has(platform);
      platforms.add(platform);
      const { manifestDigest, configDigest, indexDigest } = image;
      const isFurther = indexDigest === undefined && image !== tagged;
      const chainId = image.layers.at(-1)?.chainId;
      return { platform, chainId, manifestDigest, configDigest, indexDigest, isFurther, isFirst };
    });
    this.#keys.set(images, keys);
    return keys;
  }
}

/** Whether an image is recorded, and its time of use needs no change. */
export function isFresh({ used }: KnownImage): boolean {
  return used !== undefined && !isOutdated(used);
}

function runsHere({ platform }: ResolvedImage): boolean {
  return platform !== undefined && suitability(hostPlatform())(platform) !== undefined;
}

interface RecordKey extends Omit<ImageDigests, 'reference'> {
  /** Whether the image is the first one of its platform. An index can have several. */
  readonly isFirst: boolean;
}

/** The first image of a platform has the reference itself, and each further one `REFERENCE@DIGEST`. */
function withReference({ isFirst, ...key }: RecordKey, reference: string): ImageDigests {
  if (isFirst) return { ...key, reference };
  return { ...key, reference: `${reference.replace(/@.*$/, '')}@${key.manifestDigest}` };
}
