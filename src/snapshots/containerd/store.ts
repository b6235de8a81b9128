import type { Owner } from '../holder.ts';
import type { ImageDigests, ImageListing, ImageRecord, KnownImage, NewImage } from '../images.ts';
import type {
  CommitOptions,
  Lease,
  Mount,
  MountedSnapshots,
  OverlayXattrs,
  SnapshotFilter,
  SnapshotInfo,
  SnapshotOptions,
  Unsynced,
  Usage,
} from '../snapshotter.ts';
import type { Store } from '../store.ts';
import { ContainerdImages } from './images.ts';
import type { ContainerdSnapshotter } from './snapshotter.ts';

/** A Store in containerd: its snapshots and its images. Each call of the images is under the lease of the store, or one of its own. */
export class ContainerdStore implements Store {
  readonly root: string;
  readonly state: string;
  readonly type = 'overlay';
  readonly rebase = true;
  readonly durable: boolean;
  readonly ownership = 'keep';
  readonly overlayXattrs: OverlayXattrs;
  readonly extraction: string;
  readonly marked = false;
  readonly collectedBy = 'containerd';
  readonly #snapshots: ContainerdSnapshotter;
  readonly #images: ContainerdImages;

  constructor(snapshots: ContainerdSnapshotter) {
    this.#snapshots = snapshots;
    this.root = snapshots.root;
    this.state = snapshots.state;
    this.durable = snapshots.durable;
    this.overlayXattrs = snapshots.overlayXattrs;
    this.extraction = snapshots.extraction;
    const { client, place } = snapshots;
    this.#images = new ContainerdImages(client, place.snapshotter, snapshots, (calls) => snapshots.underLease(calls));
  }

  under(lease: Lease): ContainerdStore {
    return new ContainerdStore(this.#snapshots.under(lease));
  }

  stat(key: string): Promise<SnapshotInfo> {
    return this.#snapshots.stat(key);
  }

  has(name: string): Promise<boolean> {
    return this.#snapshots.has(name);
  }

  keys(prefix: string): Promise<string[]> {
    return this.#snapshots.keys(prefix);
  }

  prepare(key: string, parent: string, options?: SnapshotOptions): Promise<Mount[]> {
    return this.#snapshots.prepare(key, parent, options);
  }

  view(key: string, parent: string, options?: SnapshotOptions): Promise<Mount[]> {
    return this.#snapshots.view(key, parent, options);
  }

  mounts(key: string): Promise<Mount[]> {
    return this.#snapshots.mounts(key);
  }

  viewMounts(name: string): Promise<readonly Mount[]> {
    return this.#snapshots.viewMounts(name);
  }

  commit(name: string, key: string, options?: CommitOptions): Promise<void> {
    return this.#snapshots.commit(name, key, options);
  }

  lease(names: readonly string[], owner: Owner, needs?: Usage): Promise<Lease> {
    return this.#snapshots.lease(names, owner, needs);
  }

  remove(key: string): Promise<void> {
    return this.#snapshots.remove(key);
  }

  update(info: Pick<SnapshotInfo, 'name' | 'labels'>, fields?: readonly string[]): Promise<SnapshotInfo> {
    return this.#snapshots.update(info, fields);
  }

  usage(key: string): Promise<Usage> {
    return this.#snapshots.usage(key);
  }

  walk(filter?: SnapshotFilter): Promise<SnapshotInfo[]> {
    return this.#snapshots.walk(filter);
  }

  unsynced(name: string): Promise<Unsynced> {
    return this.#snapshots.unsynced(name);
  }

  sync(): Promise<void> {
    return this.#snapshots.sync();
  }

  mounted(): Promise<MountedSnapshots> {
    return this.#snapshots.mounted();
  }

  cleanup(): Promise<number> {
    return this.#snapshots.cleanup();
  }

  close(): Promise<void> {
    return this.#snapshots.close();
  }

  checkReference(reference: string): void {
    this.#images.checkReference(reference);
  }

  namesOf(image: ImageDigests): readonly string[] {
    return this.#images.namesOf(image);
  }

  recordImage(image: NewImage, documents: ReadonlyMap<string, Uint8Array>): Promise<void> {
    return this.#snapshots.run(() => this.#images.recordImage(image, documents));
  }

  lookUpImage(image: ImageDigests): Promise<KnownImage | undefined> {
    return this.#snapshots.run(() => this.#images.lookUpImage(image));
  }

  images(): Promise<ImageListing[]> {
    return this.#snapshots.run(() => this.#images.images());
  }

  document(digest: string): Promise<Uint8Array | undefined> {
    return this.#snapshots.run(() => this.#images.document(digest));
  }

  removeImage(reference: string, platform?: string): Promise<ImageRecord[]> {
    return this.#snapshots.run(() => this.#images.removeImage(reference, platform));
  }

  pinImage(reference: string, platform: string | undefined, pinned: boolean): Promise<ImageRecord[]> {
    return this.#snapshots.run(() => this.#images.pinImage(reference, platform, pinned));
  }
}
