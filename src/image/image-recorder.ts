import { formatPlatform } from '../oci/platform.ts';
import { type ImageKey, type ImageRecords, isOutdated } from '../snapshots/images.ts';
import { isSnapshotError } from '../snapshots/snapshotter.ts';
import type { ResolvedImage } from './request.ts';

/** What the store records about an image besides what its documents say. */
export interface ImageOrigin {
  readonly reference: string;
  /** For people; without secrets. */
  readonly source: string;
  readonly job?: string | undefined;
}

/** Records in the store which images it has, and that they are used. The unpacker calls it before a job gets its result. */
export class ImageRecorder {
  readonly #store: Pick<ImageRecords, 'imageUsed' | 'recordImage'>;
  /** The keys of images, without the reference. An image has another reference in another job. */
  readonly #keys = new WeakMap<readonly ResolvedImage[], readonly RecordKey[]>();

  constructor(store: Pick<ImageRecords, 'imageUsed' | 'recordImage'>) {
    this.#store = store;
  }

  /** Whether all images are recorded and their time of use needs no change. Writes nothing. */
  async isRecorded(images: readonly ResolvedImage[], reference: string): Promise<boolean> {
    for (const key of this.#keysOf(images)) {
      const used = await this.#store.imageUsed(withReference(key, reference));
      if (used === undefined || isOutdated(used)) return false;
    }
    return true;
  }

  /**
   * Records that the images are in the store and are used now.
   * @returns `false` if the store lacks the top snapshot of one
   * @throws UnpackError STORE_FULL, STORE_FAILED
   */
  async record(images: readonly ResolvedImage[], origin: ImageOrigin): Promise<boolean> {
    try {
      for (const index of images.keys()) await this.recordOne(images, index, origin);
      return true;
    } catch (error) {
      if (isSnapshotError(error, 'NotFound')) return false;
      throw error;
    }
  }

  /**
   * Records one of the images.
   * @param applied layers were unpacked, so the record changes in any case
   * @throws SnapshotError NotFound if the store lacks its top snapshot; UnpackError STORE_FULL, STORE_FAILED
   */
  async recordOne(
    images: readonly ResolvedImage[],
    index: number,
    { reference, source, job }: ImageOrigin,
    applied = false,
  ): Promise<void> {
    const [image, key] = [images[index], this.#keysOf(images)[index]];
    if (image === undefined || key === undefined) throw new RangeError(`there is no image ${index}`);
    const named = withReference(key, reference);
    const used = await this.#store.imageUsed(named);
    if (used !== undefined && !isOutdated(used) && !applied) return;
    const { configDigest, indexDigest, documents } = image;
    try {
      await this.#store.recordImage({ ...named, configDigest, indexDigest, source, job }, documents);
    } catch (error) {
      // the image is recorded, so only its time of use stays too old, until a job can write it
      if (used === undefined || isSnapshotError(error, 'NotFound')) throw error;
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

interface RecordKey extends Omit<ImageKey, 'reference'> {
  /** Whether the image is the first one of its platform. An index can have several. */
  readonly isFirst: boolean;
}

/** The first image of a platform has the reference itself, and each further one `REFERENCE@DIGEST`. */
function withReference({ isFirst, ...key }: RecordKey, reference: string): ImageKey {
  if (isFirst) return { ...key, reference };
  return { ...key, reference: `${reference.replace(/@.*$/, '')}@${key.manifestDigest}` };
}
