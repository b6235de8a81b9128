import type { ImageDigests, ImageListing, ImageRecord, KnownImage, NewImage } from '../images.ts';
import type { Lease } from '../snapshotter.ts';
import type { Store } from '../store.ts';
import { ContainerdImages } from './images.ts';
import type { ContainerdLease } from './leases.ts';
import type { Opened } from './opened.ts';
import { ContainerdSnapshotter, ownLease } from './snapshotter.ts';

/** A Store in containerd: its snapshots and its images. Each call of the images is under the lease of the store, or one of its own. */
export class ContainerdStore extends ContainerdSnapshotter implements Store {
  readonly #images: ContainerdImages;

  constructor(opened: Opened, lease?: ContainerdLease) {
    super(opened, lease);
    const { client, place } = opened;
    this.#images = new ContainerdImages(client, place.snapshotter, this, (calls) => this.underLease(calls));
  }

  override under(lease: Lease): ContainerdStore {
    return new ContainerdStore(this.opened, ownLease(lease));
  }

  checkReference(reference: string): void {
    this.#images.checkReference(reference);
  }

  namesOf(image: ImageDigests): readonly string[] {
    return this.#images.namesOf(image);
  }

  recordImage(image: NewImage, documents: ReadonlyMap<string, Uint8Array>): Promise<void> {
    return this.run(() => this.#images.recordImage(image, documents));
  }

  keepDocuments(image: NewImage, documents: ReadonlyMap<string, Uint8Array>): Promise<void> {
    return this.run(() => this.#images.keepDocuments(image, documents));
  }

  lookUpImage(image: ImageDigests): Promise<KnownImage | undefined> {
    return this.run(() => this.#images.lookUpImage(image));
  }

  images(): Promise<ImageListing[]> {
    return this.run(() => this.#images.images());
  }

  document(digest: string): Promise<Uint8Array | undefined> {
    return this.run(() => this.#images.document(digest));
  }

  removeImage(reference: string, platform?: string): Promise<ImageRecord[]> {
    return this.run(() => this.#images.removeImage(reference, platform));
  }

  pinImage(reference: string, platform: string | undefined, pinned: boolean): Promise<ImageRecord[]> {
    return this.run(() => this.#images.pinImage(reference, platform, pinned));
  }
}
