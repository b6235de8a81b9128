import type { ContainerdClient } from '../../grpc/client.ts';
import { isGrpcError } from '../../grpc/errors.ts';
import type { Owner } from '../holder.ts';
import {
  type CommitOptions,
  type Lease,
  type Mount,
  type MountedSnapshots,
  type OverlayXattrs,
  SnapshotError,
  type SnapshotFilter,
  type SnapshotInfo,
  type SnapshotOptions,
  type Snapshotter,
  type Unsynced,
  type Usage,
} from '../snapshotter.ts';
import { commitSnapshot } from './commit.ts';
import { ContainerdLease, collect } from './leases.ts';
import type { Opened, SnapshotterPlace } from './opened.ts';
import { SnapshotCalls } from './snapshot-calls.ts';
import { filtersOf, infoOf, kindOf, matches, ownLabels, prefixFilter, visibleLabels } from './wire.ts';

/**
 * A Snapshotter that is a client of containerd's overlayfs snapshotter. Layers are written straight into the directories that
 * containerd makes, as in our own overlay store.
 *
 * containerd's collection removes what no image, lease or child needs, at any time. So a call of `under(lease)` puts what it
 * makes or finds under that lease. What is made without a lease has containerd's label of a root: it stays until it is removed.
 */
export class ContainerdSnapshotter implements Snapshotter {
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
  protected readonly opened: Opened;
  readonly #calls: SnapshotCalls;

  /** @param lease for all calls */
  constructor(opened: Opened, lease?: ContainerdLease) {
    this.opened = opened;
    this.#calls = new SnapshotCalls(opened, lease);
    this.root = opened.place.root;
    this.state = opened.state.path;
    this.durable = opened.durable;
    this.overlayXattrs = opened.place.overlayXattrs;
    this.extraction = opened.extraction;
  }

  /** The same snapshotter, for calls that `lease` covers. @param lease of this snapshotter */
  under(lease: Lease): ContainerdSnapshotter {
    return new ContainerdSnapshotter(this.opened, ownLease(lease));
  }

  /** Which snapshotter of which containerd it is. */
  get place(): SnapshotterPlace {
    return this.opened.place;
  }

  /** The ID in containerd of the lease that the calls are under. */
  get leaseId(): string | undefined {
    return this.#calls.lease?.id;
  }

  /** For the calls of the store's other parts. */
  get client(): ContainerdClient {
    return this.opened.client;
  }

  /** Runs calls with the ID of this snapshotter's lease, or of one that ends with them. @throws as the calls */
  async underLease<T>(calls: (lease: string) => Promise<T>): Promise<T> {
    if (this.leaseId !== undefined) return calls(this.leaseId);
    await using lease = await this.opened.leases.take([], {});
    return await calls(lease.id);
  }

  /** Runs calls of the store's other parts. @throws as `Opened.run` */
  run<T>(calls: () => Promise<T>): Promise<T> {
    return this.opened.run(calls);
  }

  stat(key: string): Promise<SnapshotInfo> {
    return this.run(async () => infoOf(await this.#calls.stat(key)));
  }

  has(name: string): Promise<boolean> {
    return this.run(async () => (await this.#calls.committed(name)) !== undefined);
  }

  keys(prefix: string): Promise<string[]> {
    return this.run(async () => {
      const found = await this.#calls.list([prefixFilter(prefix)]);
      const unfinished = found.filter((each) => kindOf(each) !== 'committed');
      return unfinished.map(({ name }) => name).sort();
    });
  }

  prepare(key: string, parent: string, { labels = {} }: SnapshotOptions = {}): Promise<Mount[]> {
    return this.run(() => this.#calls.prepare(key, parent, visibleLabels(labels)));
  }

  view(key: string, parent: string, { labels = {} }: SnapshotOptions = {}): Promise<Mount[]> {
    return this.run(() => this.#calls.view(key, parent, visibleLabels(labels)));
  }

  mounts(key: string): Promise<Mount[]> {
    return this.run(async () => {
      try {
        return await this.#calls.mounts(key);
      } catch (error) {
        if (!isGrpcError(error, 'FAILED_PRECONDITION')) throw error;
        throw new SnapshotError('NotFound', `snapshot ${key} is committed and has no mounts: ask for a view of it`);
      }
    });
  }

  viewMounts(name: string): Promise<readonly Mount[]> {
    return this.run(() => this.#calls.viewMounts(name));
  }

  commit(name: string, key: string, options: CommitOptions = {}): Promise<void> {
    return this.run(() => commitSnapshot(this.#calls, name, key, options));
  }

  lease(names: readonly string[], owner: Owner, needs?: Usage): Promise<Lease> {
    return this.run(() => this.opened.leases.take(names, owner, needs));
  }

  remove(key: string): Promise<void> {
    return this.run(async () => {
      const isActive = this.#calls.isActive(key) || kindOf(await this.#calls.stat(key)) !== 'committed';
      await (isActive ? this.#calls.remove(key) : this.#calls.removeUnleased(key));
      this.opened.hasRemoved = true;
    });
  }

  update(info: Pick<SnapshotInfo, 'name' | 'labels'>, fields: readonly string[] = []): Promise<SnapshotInfo> {
    return this.run(async () => {
      const { name, labels } = info;
      const replacesAll = fields.length === 0 || fields.includes('labels');
      const kept = replacesAll ? ownLabels((await this.#calls.stat(name)).labels) : {};
      return infoOf(await this.#calls.update(name, { ...visibleLabels(labels), ...kept }, fields));
    });
  }

  usage(key: string): Promise<Usage> {
    return this.run(async () => {
      const { size, inodes } = await this.#calls.usage(key);
      return { bytes: size, inodes };
    });
  }

  walk(filter: SnapshotFilter = {}): Promise<SnapshotInfo[]> {
    return this.run(async () => {
      const infos = (await this.#calls.list(filtersOf(filter))).map(infoOf).filter((info) => matches(info, filter));
      return infos.sort((one, other) => (one.name < other.name ? -1 : 1));
    });
  }

  unsynced(name: string, below: readonly string[] = []): Promise<Unsynced> {
    const stat = (each: string) => this.#calls.stat(each);
    return this.run(() => this.opened.durability.unsynced({ name, below }, stat, this.durable));
  }

  sync(): Promise<void> {
    return this.run(() => this.opened.durability.sync());
  }

  async mounted(): Promise<MountedSnapshots> {
    return { places: new Map(), unseen: 'containerd mounts its snapshots itself: ask it (ctr containers ls)' };
  }

  /**
   * Ends the leases of dead processes, and lets containerd delete the files of what was under them, or was removed.
   * @returns 0, because containerd does not tell how many
   */
  cleanup(): Promise<number> {
    return this.run(async () => {
      const { leases, client, hasRemoved } = this.opened;
      const dead = await leases.endDead();
      if (dead === 0 && !hasRemoved) return 0;
      this.opened.hasRemoved = false;
      await collect(client);
      return 0;
    });
  }

  close(): Promise<void> {
    return this.opened.close();
  }
}

/** @throws TypeError for a lease of another store */
export function ownLease(lease: Lease): ContainerdLease {
  if (lease instanceof ContainerdLease) return lease;
  throw new TypeError('the lease is of another store');
}
