import type { ContainerdClient } from '../../grpc/client.ts';
import { undefinedIfNotFound } from '../../grpc/errors.ts';
import type { WireDescriptor, WireImage, WireSnapshot } from '../../grpc/services.ts';
import { findImageName, formatImageName, fullNameOf, parseImageName } from '../../oci/image-name.ts';
import type { ImageDigests, ImageListing, ImageRecord, ImageRecords, KnownImage, NewImage } from '../images.ts';
import { NOTHING_TO_MOUNT } from '../layout.ts';
import { isSnapshotError, type Mount, SnapshotError, type Snapshotter, type Usage } from '../snapshotter.ts';
import { Documents } from './content.ts';
import { type ImageLabel, labelText, newLabel, platformKey, recordOf, validLabels } from './image-labels.ts';
import { listImages } from './image-listing.ts';
import { digestName, isId, type Names, namesIn } from './image-names.ts';
import { type LayerRecord, LayerRecords, labelOf } from './layer-records.ts';
import { collect } from './leases.ts';
import { isPinned, NamedImages } from './named-images.ts';
import { dateOf, LABEL_IMAGE } from './wire.ts';

/** Runs calls under a lease of containerd, whose ID it gets, and ends the lease. */
export type UnderLease = <T>(calls: (lease: string) => Promise<T>) => Promise<T>;

/** What the image records need of the store's Snapshotter. */
export type SnapshotViews = Pick<Snapshotter, 'viewMounts' | 'extraction'>;

/**
 * The images of a store in containerd. An image is recorded as a pull by the CRI service records it, without the blobs of its
 * layers:
 *
 *     image HOST/REPOSITORY:TAG, image HOST/REPOSITORY@DIGEST ─▶ index or manifest ─▶ config ─▶ top snapshot
 *     image CONFIG DIGEST ────────────────────────────────────▶ manifest
 *
 * The arrows are targets and labels, by which containerd's collection finds what an image keeps. All is made from right to left
 * under a lease, so a crash leaves nothing that a collection does not take. What only this program knows is in labels of the
 * images (image-labels.ts). Explicit layers have no image: their record is on the top snapshot (layer-records.ts).
 *
 * A pull, or a removal by somebody else, can change all of it at any time. `lookUpImage` then finds no whole record, and the
 * next job makes it again.
 *
 * References are those that containerd has: the full names. Any call can throw GrpcError. ContainerdStore is the only user.
 */
export class ContainerdImages implements ImageRecords {
  readonly #client: ContainerdClient;
  readonly #snapshotter: string;
  readonly #snapshots: SnapshotViews;
  readonly #underLease: UnderLease;
  readonly #documents: Documents;
  readonly #images: NamedImages;
  readonly #layers: LayerRecords;

  /** @param snapshotter its name in containerd */
  constructor(client: ContainerdClient, snapshotter: string, snapshots: SnapshotViews, underLease: UnderLease) {
    this.#client = client;
    this.#snapshotter = snapshotter;
    this.#snapshots = snapshots;
    this.#underLease = underLease;
    this.#documents = new Documents(client, snapshotter);
    this.#images = new NamedImages(client);
    this.#layers = new LayerRecords(client, snapshotter);
  }

  checkReference(reference: string): void {
    parseImageName(reference);
  }

  namesOf(image: ImageDigests): readonly string[] {
    const names = namesIn(image);
    if (names === undefined) return [];
    return [names.first, ...(names.byDigest === undefined ? [] : [names.byDigest]), names.id];
  }

  async recordImage(image: NewImage, documents: ReadonlyMap<string, Uint8Array>): Promise<void> {
    const names = namesIn(image);
    await this.#underLease(async (lease) => {
      const top = await this.#keepTop(image, lease);
      const times = { unpacked: top === undefined ? undefined : dateOf(top.createdAt), used: new Date() };
      if (names !== undefined) {
        const descriptors = await this.#putDocuments(image, documents, lease);
        await this.#putNames(image, names, descriptors, times);
      } else if (top !== undefined) {
        const { reference } = image;
        await this.#layers.record(fullName(reference), image, top, { ...times, unpacked: dateOf(top.createdAt) });
      }
    });
  }

  async keepDocuments(image: NewImage, documents: ReadonlyMap<string, Uint8Array>): Promise<void> {
    // explicit layers have none
    if (documents.size === 0) return;
    await this.#underLease((lease) => this.#putDocuments(image, documents, lease));
  }

  async lookUpImage(image: ImageDigests): Promise<KnownImage | undefined> {
    const names = namesIn(image);
    const { chainId } = image;
    const mounts = chainId === undefined ? NOTHING_TO_MOUNT : await this.#viewMounts(chainId);
    if (mounts === undefined) return undefined;
    const label = await (names === undefined ? this.#layerLabel(image) : this.#wholeLabel(image, names));
    return { mounts, used: label === undefined ? undefined : new Date(label.used) };
  }

  async images(): Promise<ImageListing[]> {
    const images = await this.#images.recorded();
    const snapshots: WireSnapshot[] = [];
    const all = this.#client.snapshots.List({ snapshotter: this.#snapshotter });
    for await (const { info } of all) snapshots.push(...info);
    return listImages(images, snapshots, this.#snapshots.extraction, (name) => this.#usage(name));
  }

  document(digest: string): Promise<Uint8Array | undefined> {
    return this.#documents.read(digest);
  }

  async removeImage(reference: string, platform?: string): Promise<ImageRecord[]> {
    const found = await this.#find(reference, platform);
    if (found.records.some(({ pinned }) => pinned)) {
      throw new SnapshotError('FailedPrecondition', `image ${found.name} is pinned: unpin it first`);
    }
    if (found.others.length > 0) {
      throw new SnapshotError(
        'FailedPrecondition',
        `image ${found.name} is there for ${found.others.join(', ')} too, and containerd removes an image for all its platforms: leave out the platform`,
      );
    }
    if (found.image !== undefined) await this.#removeNames(found.image, found.records);
    for (const layers of found.layers) await this.#layers.remove(found.name, layers);
    await collect(this.#client);
    return [...found.records];
  }

  async pinImage(reference: string, platform: string | undefined, pinned: boolean): Promise<ImageRecord[]> {
    const found = await this.#find(reference, platform);
    if (found.image !== undefined) await this.#images.pin(found.image, pinned);
    for (const layers of found.layers) await this.#layers.pin(found.name, layers, pinned);
    return found.records.map((record) => ({ ...record, pinned }));
  }

  /** Keeps the top snapshot of an image, and looks then whether it is there. @throws NotFound; GrpcError */
  async #keepTop({ reference, chainId }: NewImage, lease: string): Promise<WireSnapshot | undefined> {
    if (chainId === undefined) return undefined;
    const resource = { id: chainId, type: `snapshots/${this.#snapshotter}` };
    await this.#client.leases.AddResource({ id: lease, resource });
    const top = await this.#stat(chainId);
    if (top?.kind === 'COMMITTED') return top;
    throw new SnapshotError('NotFound', `image ${reference} is not recorded: the store has no snapshot ${chainId}`);
  }

  /** @returns descriptors of the manifest and the indexes */
  async #putDocuments(
    { reference, configDigest, chainId }: NewImage,
    documents: ReadonlyMap<string, Uint8Array>,
    lease: string,
  ): Promise<ReadonlyMap<string, WireDescriptor>> {
    const origin = parseImageName(reference);
    const descriptors = new Map<string, WireDescriptor>();
    for (const [digest, bytes] of documents) {
      if (digest === configDigest) await this.#documents.putConfig(digest, bytes, chainId, origin, lease);
      else {
        const { mediaType } = await this.#documents.putDocument(digest, bytes, origin, lease);
        descriptors.set(digest, { mediaType, digest, size: bytes.length });
      }
    }
    return descriptors;
  }

  async #putNames(
    image: NewImage,
    { first, target, byDigest, id }: Names,
    descriptors: ReadonlyMap<string, WireDescriptor>,
    times: { readonly unpacked: Date | undefined; readonly used: Date },
  ): Promise<void> {
    const [top, manifest] = [descriptors.get(target), descriptors.get(image.manifestDigest ?? '')];
    if (top === undefined || manifest === undefined) {
      throw new SnapshotError('InvalidArgument', `image ${first} is not recorded: its document ${target} is missing`);
    }
    const platform = platformKey(image.platform);
    const key = `${LABEL_IMAGE}${platform}`;
    const put = (name: string, change: (label: ImageLabel, earlier?: ImageLabel) => ImageLabel) =>
      this.#images.put(name, top, NEVER, (there) => {
        const earlier = there && validLabels(there).get(platform);
        return { [key]: labelText(key, change(newLabel(image, times, earlier), earlier)) };
      });
    // the name that people use comes last, because it is looked up first
    await this.#images.put(
      id,
      manifest,
      (there) => descriptors.has(there),
      () => ({}),
    );
    if (byDigest !== undefined) {
      // unless a job has named it, it goes with the tag
      await put(byDigest, (label, earlier) => ({ ...label, beside: earlier === undefined || earlier.beside === true }));
    }
    await put(first, (label) => label);
  }

  /** What is recorded of an image in containerd, if nothing of the record is missing. */
  async #wholeLabel(image: ImageDigests, { first, target, byDigest, id }: Names): Promise<ImageLabel | undefined> {
    const { manifestDigest = '', configDigest = '', indexDigest, chainId, platform } = image;
    const [named, beside, ident, ...documents] = await Promise.all([
      this.#images.get(first),
      byDigest === undefined ? undefined : this.#images.get(byDigest),
      this.#images.get(id),
      this.#documents.hasConfig(configDigest, chainId),
      this.#documents.has(manifestDigest),
      indexDigest === undefined || this.#documents.has(indexDigest),
    ]);
    const leads = (one: WireImage | undefined) => one?.target?.digest === target;
    // the ID may lead to another manifest with the same config
    if (named === undefined || ident === undefined || !leads(named)) return undefined;
    if (byDigest !== undefined && !leads(beside)) return undefined;
    const label = validLabels(named).get(platformKey(platform));
    const isSame = label?.manifest === manifestDigest && label.chain === chainId && label.config === configDigest;
    return isSame && documents.every((there) => there) ? label : undefined;
  }

  async #layerLabel({ reference, chainId }: ImageDigests): Promise<ImageLabel | undefined> {
    const top = chainId === undefined ? undefined : await this.#stat(chainId);
    return top && labelOf(top, fullName(reference));
  }

  /** The records of a reference. @throws NotFound */
  async #find(reference: string, platform: string | undefined): Promise<Found> {
    const isWanted = (record: ImageRecord) => platform === undefined || record.platform === platform;
    const name = fullNameOf(reference) ?? '';
    const image = name === '' ? undefined : await this.#images.get(name);
    const all = image === undefined ? [] : recordsOf(image);
    const ofImage = all.filter(isWanted);
    const named = name === '' ? [] : await this.#layers.named(name);
    const layers = named.filter(({ label }) => isWanted(recordOf(name, '', label)));
    const records = [...ofImage, ...layers.map(({ label }) => recordOf(name, '', label))];
    if (records.length === 0) {
      const which = platform === undefined ? '' : ` for ${platform === '' ? 'no platform' : platform}`;
      throw new SnapshotError('NotFound', `the store has no image ${reference}${which}`);
    }
    const others = ofImage.length === 0 ? [] : all.filter((record) => !isWanted(record));
    return {
      name,
      records,
      image: ofImage.length === 0 ? undefined : image,
      others: others.map((record) => record.platform),
      layers,
    };
  }

  /** Removes an image, and those that were made beside it unless another name needs them. */
  async #removeNames(image: WireImage, records: readonly ImageRecord[]): Promise<void> {
    await this.#images.remove(image);
    const target = image.target?.digest ?? '';
    const name = parseImageName(image.name);
    const beside = 'tag' in name.version ? await this.#images.get(digestName(name, target)) : undefined;
    if (beside !== undefined && [...validLabels(beside).values()].every((label) => label.beside === true)) {
      const tags = (await this.#images.leadingTo(target)).map((one) => findImageName(one.name));
      const isNeeded = tags.some(
        (tag) => tag?.host === name.host && tag.repository === name.repository && 'tag' in tag.version,
      );
      if (!isNeeded) await this.#images.remove(beside);
    }
    await this.#removeIds(records);
  }

  /** Removes the IDs of images that no name leads to any more. */
  async #removeIds(records: readonly ImageRecord[]): Promise<void> {
    // an image that differs in its compressed layers only has another manifest, and the same ID
    const ours = (await this.#images.recorded()).flatMap((one) => [...validLabels(one).values()]);
    const needed = new Set(ours.map(({ config }) => config));
    for (const { configDigest = '', manifestDigest, indexDigest } of records) {
      const id = needed.has(configDigest) ? undefined : await this.#images.get(configDigest);
      if (id === undefined) continue;
      const left: WireImage[] = [];
      for (const digest of new Set([manifestDigest, indexDigest, id.target?.digest])) {
        if (digest !== undefined) left.push(...(await this.#images.leadingTo(digest)));
      }
      if (left.every(({ name }) => isId(name))) await this.#images.remove(id);
    }
  }

  async #viewMounts(chainId: string): Promise<readonly Mount[] | undefined> {
    try {
      return await this.#snapshots.viewMounts(chainId);
    } catch (error) {
      if (isSnapshotError(error, 'NotFound')) return undefined;
      throw error;
    }
  }

  async #stat(key: string): Promise<WireSnapshot | undefined> {
    const request = { snapshotter: this.#snapshotter, key };
    return (await this.#client.snapshots.Stat(request).catch(undefinedIfNotFound))?.info ?? undefined;
  }

  async #usage(key: string): Promise<Usage | undefined> {
    const request = { snapshotter: this.#snapshotter, key };
    const usage = await this.#client.snapshots.Usage(request).catch(undefinedIfNotFound);
    return usage && { bytes: usage.size, inodes: usage.inodes };
  }
}

/** The records of a reference in containerd. */
interface Found {
  readonly name: string;
  readonly records: readonly ImageRecord[];
  /** The image, if records of it are among them. */
  readonly image: WireImage | undefined;
  /** Its platforms that are not wanted. */
  readonly others: readonly string[];
  readonly layers: readonly LayerRecord[];
}

const NEVER = () => false;

/** The records of an image in containerd, one for each platform. */
function recordsOf(image: WireImage): ImageRecord[] {
  return [...validLabels(image)].map(([key, label]) => recordOf(image.name, key, label, isPinned(image)));
}

/** @throws UnpackError INVALID_JOB */
function fullName(reference: string): string {
  return formatImageName(parseImageName(reference));
}
