import type { ContainerdClient } from '../../grpc/client.ts';
import { undefinedIfNotFound } from '../../grpc/errors.ts';
import type { Labels, WireDescriptor, WireImage, WireSnapshot } from '../../grpc/services.ts';
import { formatImageName, fullNameOf, parseImageName } from '../../oci/image-name.ts';
import type { ImageDigests, ImageListing, ImageRecord, ImageRecords, KnownImage, NewImage } from '../images.ts';
import { NOTHING_TO_MOUNT } from '../layout.ts';
import { isSnapshotError, type Mount, SnapshotError, type Snapshotter, type Usage } from '../snapshotter.ts';
import { Documents } from './content.ts';
import {
  type ImageLabel,
  LABEL_PINNED,
  labelOnId,
  labelsOnId,
  labelText,
  leadsTo,
  nameKey,
  newLabel,
  platformKey,
  recordOf,
  validLabels,
} from './image-labels.ts';
import { listImages } from './image-listing.ts';
import { type Names, namesIn } from './image-names.ts';
import { pinName, unpinName, unpinOnId } from './image-pins.ts';
import { removeNames } from './image-removal.ts';
import { type LayerRecord, LayerRecords, labelOf } from './layer-records.ts';
import { collect } from './leases.ts';
import { NamedImages } from './named-images.ts';
import { isOwnPin, OWN_PIN, pinOf, pinOfId } from './pin-labels.ts';
import { type RecordedImage, recordedImages } from './recorded-images.ts';
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
 * images (image-labels.ts), on the name and on the ID, because a pull of the name takes its labels away (recorded-images.ts).
 * Explicit layers have no image: their record is on the top snapshot (layer-records.ts).
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
      // at once, because each answer of containerd takes a millisecond; nothing needs the documents before the images exist
      const [top, descriptors] = await Promise.all([
        this.#keepTop(image, lease),
        names === undefined ? undefined : this.#putDocuments(image, documents, lease),
      ]);
      const times = { unpacked: top === undefined ? undefined : dateOf(top.createdAt), used: new Date() };
      if (names !== undefined && descriptors !== undefined) {
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
    const images = recordedImages(await this.#images.all());
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
        `image ${found.name} is there for ${found.others.map(({ record }) => record.platform).join(', ')} too, and containerd removes an image for all its platforms: leave out the platform`,
      );
    }
    await removeNames(this.#images, found.name, found.images);
    for (const layers of found.layers) await this.#layers.remove(found.name, layers);
    await collect(this.#client);
    return [...found.records];
  }

  async pinImage(reference: string, platform: string | undefined, pinned: boolean): Promise<ImageRecord[]> {
    const found = await this.#find(reference, platform);
    // a name has one pin for all its platforms
    if (found.images.length > 0) await (pinned ? pinName : unpinName)(this.#images, [...found.images, ...found.others]);
    for (const layers of found.layers) await this.#layers.pin(found.name, layers, pinned);
    if (!pinned && found.images.length > 0) await this.#checkUnpinned(reference, platform);
    return found.records.map((record) => ({ ...record, pinned }));
  }

  /** @throws FailedPrecondition if another program has pinned an image */
  async #checkUnpinned(reference: string, platform: string | undefined): Promise<void> {
    const { name, images } = await this.#find(reference, platform);
    const pinned = images.find(({ record }) => record.pinned);
    if (pinned === undefined) return;
    throw new SnapshotError(
      'FailedPrecondition',
      `image ${name} is no longer pinned by unpackd, but another program has pinned it: if nobody needs that pin, remove the label ${LABEL_PINNED} from ${name} and from ${pinned.record.configDigest} with "ctr images label"`,
    );
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
    const put = async (digest: string, bytes: Uint8Array): Promise<void> => {
      if (digest === configDigest) return await this.#documents.putConfig(digest, bytes, chainId, origin, lease);
      const { mediaType } = await this.#documents.putDocument(digest, bytes, origin, lease);
      descriptors.set(digest, { mediaType, digest, size: bytes.length });
    };
    await Promise.all([...documents].map(([digest, bytes]) => put(digest, bytes)));
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
    const idKey = nameKey(first);
    const found = await this.#nameOnIds(first);
    const { pinned } = found;
    const labelOf = (there?: WireImage, onId?: ImageLabel) =>
      newLabel(image, times, (there && validLabels(there).get(platform)) ?? onId);
    const put = (name: string, labelsOf: (there?: WireImage) => Labels) =>
      this.#images.put(name, top, NEVER, (there) => labelsOf(there));
    // the name that people use comes last, because it is looked up first
    let isNamedByJob = false;
    await this.#images.put(
      id,
      manifest,
      (there) => descriptors.has(there),
      (there) => {
        const onId = there === undefined ? [] : [...labelsOnId(there).values()];
        isNamedByJob = onId.some(({ name, beside }) => name === byDigest && beside !== true);
        const earlier = onId.find(({ name }) => name === first);
        const label = labelOf(found.named, earlier);
        const labels = { [idKey]: labelText(idKey, labelOnId(label, first, image.platform, pinned)) };
        return { ...labels, ...pinOfId({ name: id, labels: { ...there?.labels, ...labels } }) };
      },
    );
    if (byDigest !== undefined) {
      await put(byDigest, (there) => {
        const earlier = there && validLabels(there).get(platform);
        // unless a job has named it, it goes with the tag
        const beside = !isNamedByJob && (earlier === undefined || earlier.beside === true);
        return { [key]: labelText(key, { ...labelOf(there), name: byDigest, beside }) };
      });
    }
    await put(first, (there) => {
      const label = labelText(key, { ...labelOf(there, found.onIds.get(id)), name: first });
      return { [key]: label, ...(pinned ? pinOf(there) : {}) };
    });
    if (pinned) await this.#unpinMoved(first);
  }

  /**
   * What there is of a name, before it is recorded. The pin stays with the name, also if the name now leads elsewhere.
   * @returns the name if it is there, and its labels on IDs by the ID
   */
  async #nameOnIds(name: string): Promise<NameOnIds> {
    const images = await this.#images.withIds(name);
    const named = images.find((image) => image.name === name);
    const onIds = new Map<string, ImageLabel>();
    for (const image of images) {
      const label = [...labelsOnId(image).values()].find((one) => one.name === name);
      if (label !== undefined) onIds.set(image.name, label);
    }
    const isPinnedByUs = named !== undefined && isOwnPin(named, onIds.size > 0);
    // before an ID has a label of the name: afterwards, nobody could tell whose pin it is
    if (isPinnedByUs) await this.#images.change(name, () => OWN_PIN);
    return { named, onIds, pinned: isPinnedByUs || [...onIds.values()].some(({ pinned }) => pinned === true) };
  }

  /** Takes the pin of a name from the IDs to which the name does not lead any more. */
  async #unpinMoved(name: string): Promise<void> {
    const { named, onIds } = await this.#nameOnIds(name);
    for (const [id, label] of onIds) {
      const isMoved = named !== undefined && !leadsTo(named, label);
      if (isMoved && label.pinned === true) await unpinOnId(this.#images, id, name);
    }
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
    const isSame = (label: ImageLabel | undefined) =>
      label?.manifest === manifestDigest && label.chain === chainId && label.config === configDigest;
    const label = validLabels(named).get(platformKey(platform));
    const onId = [...labelsOnId(ident).values()].find((one) => one.name === first);
    return isSame(label) && isSame(onId) && documents.every((there) => there) ? label : undefined;
  }

  async #layerLabel({ reference, chainId }: ImageDigests): Promise<ImageLabel | undefined> {
    const top = chainId === undefined ? undefined : await this.#stat(chainId);
    return top && labelOf(top, fullName(reference));
  }

  /** The records of a reference. @throws NotFound */
  async #find(reference: string, platform: string | undefined): Promise<Found> {
    const isWanted = (record: ImageRecord) => platform === undefined || record.platform === platform;
    const name = fullNameOf(reference) ?? '';
    const all =
      name === '' ? [] : recordedImages(await this.#images.all()).filter((one) => one.record.reference === name);
    const images = all.filter(({ record }) => isWanted(record));
    const named = name === '' ? [] : await this.#layers.named(name);
    const layers = named.filter(({ label }) => isWanted(recordOf(name, '', label)));
    const records = [...images.map(({ record }) => record), ...layers.map(({ label }) => recordOf(name, '', label))];
    if (records.length === 0) {
      const which = platform === undefined ? '' : ` for ${platform === '' ? 'no platform' : platform}`;
      throw new SnapshotError('NotFound', `the store has no image ${reference}${which}`);
    }
    const others = images.length === 0 ? [] : all.filter(({ record }) => !isWanted(record));
    return { name, records, images, others, layers };
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
  /** Those that are images. */
  readonly images: readonly RecordedImage[];
  /** Those of platforms that are not wanted. */
  readonly others: readonly RecordedImage[];
  readonly layers: readonly LayerRecord[];
}

/** A name in containerd, and its labels on IDs. */
interface NameOnIds {
  readonly named: WireImage | undefined;
  /** By the ID. */
  readonly onIds: ReadonlyMap<string, ImageLabel>;
  /** Whether this program has pinned the name. */
  readonly pinned: boolean;
}

const NEVER = () => false;

/** @throws UnpackError INVALID_JOB */
function fullName(reference: string): string {
  return formatImageName(parseImageName(reference));
}
