import { randomBytes } from 'node:crypto';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { UnpackError } from '../../errors.ts';
import type { ContainerdClient } from '../../grpc/client.ts';
import { isGrpcError } from '../../grpc/errors.ts';
import type { Labels, WireSnapshot } from '../../grpc/services.ts';
import { LruCache } from '../../lru-cache.ts';
import { Calls } from '../calls.ts';
import { holderName, type Owner } from '../holder.ts';
import type { Leases } from '../leases.ts';
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
import { Durability } from './durability.ts';
import { converted } from './errors.ts';
import { giveOwnerOf, moveTree, topTreeOf, treeOf, viewOf } from './exchange.ts';
import { ContainerdLease, type ContainerdLeases, collect } from './leases.ts';
import type { State } from './state.ts';
import {
  filtersOf,
  infoOf,
  kindOf,
  LABEL_ROOT,
  LABEL_STATE,
  LABEL_SYNCED,
  matches,
  mountsOf,
  ownLabels,
  prefixFilter,
  versionOf,
} from './wire.ts';

/** Milliseconds for a commit or a removal: containerd counts or deletes the files of the layer meanwhile. */
const LONG = 600_000;
/** The number of snapshots whose mounts are remembered. */
const KNOWN_MOUNTS = 10_000;

/** Where the snapshots are, and what was found out about their snapshotter when it was opened. */
export interface SnapshotterPlace {
  readonly socket: string;
  readonly namespace: string;
  /** The name of the snapshotter in containerd. */
  readonly snapshotter: string;
  /** Its directory. */
  readonly root: string;
  /** Whether its commit gives a parent to a snapshot that was prepared without one (capability `rebase`). */
  readonly canRebase: boolean;
  readonly overlayXattrs: OverlayXattrs;
}

/** What the opening makes. */
interface OpenedParts {
  /** It is closed with the snapshotter. */
  readonly client: ContainerdClient;
  readonly place: SnapshotterPlace;
  readonly state: State;
  readonly durable: boolean;
  readonly files: Leases;
  readonly leases: ContainerdLeases;
}

/** What the snapshotters of one opening share. Each has a lease of its own. */
interface Shared extends OpenedParts {
  readonly durability: Durability;
  readonly calls: Calls;
  /** The active snapshots that this process has prepared. */
  readonly active: Map<string, { readonly parent: string; readonly mounts: readonly Mount[] }>;
  /** The view mounts of committed snapshots, by their versions. */
  readonly views: LruCache<readonly Mount[]>;
  /** Snapshots that were removed, and whose files containerd has possibly not deleted yet. */
  readonly removals: { uncollected: number };
  readonly close: () => Promise<void>;
}

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
  readonly #shared: Shared;
  readonly #lease: ContainerdLease | undefined;

  private constructor(shared: Shared, lease?: ContainerdLease) {
    this.#shared = shared;
    this.#lease = lease;
    this.root = shared.place.root;
    this.state = shared.state.path;
    this.durable = shared.durable;
    this.overlayXattrs = shared.place.overlayXattrs;
    this.extraction = `unpackd-${shared.state.id}-extract-`;
  }

  /** @throws system errors */
  static open({ durable, ...parts }: OpenedParts): ContainerdSnapshotter {
    const { client, place } = parts;
    const durability = new Durability(client, place.snapshotter, join(place.root, 'snapshots'));
    const calls = new Calls(place.root);
    const end = async () => {
      await calls.end();
      await durability.close();
      client.close();
    };
    let closed: Promise<void> | undefined;
    const close = () => {
      closed ??= end();
      return closed;
    };
    const views = new LruCache<readonly Mount[]>(KNOWN_MOUNTS);
    return new ContainerdSnapshotter({
      ...parts,
      durable,
      durability,
      calls,
      active: new Map(),
      views,
      removals: { uncollected: 0 },
      close,
    });
  }

  /** The same snapshotter, for calls that `lease` covers. @param lease of this snapshotter */
  under(lease: Lease): ContainerdSnapshotter {
    return new ContainerdSnapshotter(this.#shared, ownLease(lease));
  }

  /** Which snapshotter of which containerd it is. */
  get place(): SnapshotterPlace {
    return this.#shared.place;
  }

  /** The ID in containerd of the lease that the calls are under. */
  get leaseId(): string | undefined {
    return this.#lease?.id;
  }

  /** For the calls of the store's other parts. */
  get client(): ContainerdClient {
    return this.#shared.client;
  }

  /** Runs calls with the ID of this snapshotter's lease, or of one that ends with them. @throws as the calls */
  async underLease<T>(calls: (lease: string) => Promise<T>): Promise<T> {
    if (this.#lease !== undefined) return calls(this.#lease.id);
    await using lease = await this.#shared.leases.take([], {});
    return await calls(lease.id);
  }

  /** Runs calls of containerd. @throws UnpackError SHUTTING_DOWN after `close`; as `storeError` converts the errors of the calls */
  run<T>(calls: () => Promise<T>): Promise<T> {
    return this.#shared.calls.run(() => converted(this.#shared.place.socket, calls));
  }

  stat(key: string): Promise<SnapshotInfo> {
    return this.run(async () => infoOf(await this.#stat(key)));
  }

  has(name: string): Promise<boolean> {
    return this.run(async () => (await this.#committed(name)) !== undefined);
  }

  keys(prefix: string): Promise<string[]> {
    return this.run(async () => {
      const found = await this.#list([prefixFilter(prefix)]);
      const unfinished = found.filter((each) => kindOf(each) !== 'committed');
      return unfinished.map(({ name }) => name).sort();
    });
  }

  prepare(key: string, parent: string, { labels = {} }: SnapshotOptions = {}): Promise<Mount[]> {
    return this.run(() => this.#prepare(key, parent, labels));
  }

  view(key: string, parent: string, { labels = {} }: SnapshotOptions = {}): Promise<Mount[]> {
    return this.run(async () => {
      requireKey(key);
      const request = { ...this.#key(key), parent, labels: this.#labelled(labels) };
      return mountsOf((await this.client.snapshots.View(request, this.#under)).mounts);
    });
  }

  mounts(key: string): Promise<Mount[]> {
    return this.run(async () => {
      try {
        return mountsOf((await this.client.snapshots.Mounts(this.#key(key), this.#under)).mounts);
      } catch (error) {
        if (!isGrpcError(error, 'FAILED_PRECONDITION')) throw error;
        throw new SnapshotError('NotFound', `snapshot ${key} is committed and has no mounts: ask for a view of it`);
      }
    });
  }

  viewMounts(name: string): Promise<readonly Mount[]> {
    return this.run(() => this.#viewMounts(name));
  }

  commit(name: string, key: string, options: CommitOptions = {}): Promise<void> {
    return this.run(async () => {
      const { parent = '', synced = false } = options;
      const active = await this.#activeOf(key);
      if (active.parent !== '' && parent !== '' && active.parent !== parent) {
        throw new SnapshotError('InvalidArgument', `snapshot ${key} has the parent ${active.parent} already`);
      }
      const labels = this.#labelled({ ...options.labels, ...(synced ? { [LABEL_SYNCED]: 'true' } : {}) });
      const isLate = parent !== '' && active.parent === '';
      let mounts: readonly Mount[] | undefined = active.mounts;
      if (!isLate) await this.#commit(name, key, labels);
      else if (this.#shared.place.canRebase)
        mounts = await this.#rebase(name, key, active.mounts, { parent, labels, synced });
      else mounts = await this.#exchange(name, active.mounts, { parent, labels, synced });
      this.#shared.active.delete(key);
      this.#shared.durability.committed(name, key, synced);
      // the first snapshot of an exchange is empty now; if this fails, it goes with the lease
      if (mounts !== undefined && mounts !== active.mounts) await this.#remove(key).catch(() => {});
      await this.#checkCommitted(name, parent === '' ? active.parent : parent, mounts);
    });
  }

  lease(names: readonly string[], owner: Owner, needs?: Usage): Promise<Lease> {
    return this.run(() => this.#shared.leases.take(names, owner, needs));
  }

  remove(key: string): Promise<void> {
    return this.run(async () => {
      const { active, removals } = this.#shared;
      if (active.has(key) || kindOf(await this.#stat(key)) !== 'committed') await this.#remove(key);
      else await this.#removeUnleased(key);
      removals.uncollected++;
    });
  }

  update(info: Pick<SnapshotInfo, 'name' | 'labels'>, fields: readonly string[] = []): Promise<SnapshotInfo> {
    return this.run(async () => {
      const { name, labels } = info;
      const isWhole = fields.length === 0 || fields.includes('labels');
      const kept = isWhole ? ownLabels((await this.#stat(name)).labels) : {};
      const request = {
        snapshotter: this.#shared.place.snapshotter,
        info: { name, labels: { ...labels, ...kept } },
        updateMask: { paths: fields },
      };
      const { info: updated } = await this.client.snapshots.Update(request, this.#under);
      return infoOf(present(updated, name));
    });
  }

  usage(key: string): Promise<Usage> {
    return this.run(async () => {
      const { size, inodes } = await this.client.snapshots.Usage(this.#key(key), { deadline: LONG });
      return { bytes: size, inodes };
    });
  }

  walk(filter: SnapshotFilter = {}): Promise<SnapshotInfo[]> {
    return this.run(async () => {
      const infos = (await this.#list(filtersOf(filter))).map(infoOf).filter((info) => matches(info, filter));
      return infos.sort((one, other) => (one.name < other.name ? -1 : 1));
    });
  }

  unsynced(name: string): Promise<Unsynced> {
    return this.run(() => this.#shared.durability.unsynced(name, (each) => this.#stat(each), this.durable));
  }

  sync(): Promise<void> {
    return this.run(() => this.#shared.durability.sync());
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
      const { leases, client, removals } = this.#shared;
      const dead = await leases.endDead();
      if (dead > 0 || removals.uncollected > 0) await collect(client);
      removals.uncollected = 0;
      return 0;
    });
  }

  close(): Promise<void> {
    return this.#shared.close();
  }

  /** @throws NotFound */
  async #stat(key: string): Promise<WireSnapshot> {
    requireKey(key);
    return present((await this.client.snapshots.Stat(this.#key(key), this.#under)).info, key);
  }

  /** The committed snapshot of this name, which the lease keeps from now on; `undefined` if there is none. */
  async #committed(name: string): Promise<WireSnapshot | undefined> {
    const found = await this.#ifCommitted(name);
    if (found === undefined || this.#lease === undefined || this.#lease.covers(name)) return found;
    await this.#lease.cover(name);
    return this.#ifCommitted(name);
  }

  async #ifCommitted(name: string): Promise<WireSnapshot | undefined> {
    if (name === '') return undefined;
    try {
      const found = await this.#stat(name);
      return kindOf(found) === 'committed' ? found : undefined;
    } catch (error) {
      if (isGrpcError(error, 'NOT_FOUND')) return undefined;
      throw error;
    }
  }

  async #list(filters: readonly string[]): Promise<WireSnapshot[]> {
    const { snapshotter } = this.#shared.place;
    const found: WireSnapshot[] = [];
    for await (const { info } of this.client.snapshots.List({ snapshotter, filters })) found.push(...info);
    return found;
  }

  async #prepare(key: string, parent: string, labels: Labels): Promise<Mount[]> {
    requireKey(key);
    const own = this.#labelled({ ...labels, [LABEL_STATE]: this.#shared.state.id });
    this.#shared.durability.begun(key);
    try {
      const request = { ...this.#key(key), parent, labels: own };
      const mounts = mountsOf((await this.client.snapshots.Prepare(request, this.#under)).mounts);
      this.#shared.active.set(key, { parent, mounts });
      return mounts;
    } catch (error) {
      this.#shared.durability.gone(key);
      throw error;
    }
  }

  /** The parent and the mounts of an active snapshot. @throws NotFound, InvalidArgument if it is none */
  async #activeOf(key: string): Promise<{ readonly parent: string; readonly mounts: readonly Mount[] }> {
    const known = this.#shared.active.get(key);
    if (known !== undefined) return known;
    const found = await this.#stat(key);
    if (kindOf(found) !== 'active') throw new SnapshotError('InvalidArgument', `snapshot ${key} is not active`);
    const { mounts } = await this.client.snapshots.Mounts(this.#key(key), this.#under);
    return { parent: found.parent, mounts: mountsOf(mounts) };
  }

  async #commit(name: string, key: string, labels: Labels, parent = ''): Promise<void> {
    const request = { ...this.#key(key), name, labels, ...(parent === '' ? {} : { parent }) };
    await this.client.snapshots.Commit(request, { ...this.#under, deadline: LONG });
  }

  /** Lets containerd give the parent. @returns the mounts of a view, as `viewOf` would; `undefined` if they are not known */
  async #rebase(
    name: string,
    key: string,
    mounts: readonly Mount[],
    { parent, labels, synced }: LateParent,
  ): Promise<undefined> {
    await giveOwnerOf(topTreeOf(await this.#viewMounts(parent)), treeOf(mounts), synced);
    await this.#commit(name, key, labels, parent);
    return undefined;
  }

  /**
   * Moves the files into a second snapshot, on the parent, and commits that one. If containerd refuses the commit for good, the
   * files move back, and the first one can be used again.
   * @returns the mounts of the second snapshot
   */
  async #exchange(
    name: string,
    mounts: readonly Mount[],
    { parent, labels, synced }: LateParent,
  ): Promise<readonly Mount[]> {
    const second = this.#temporaryKey('onto', name);
    const onto = await this.#prepare(second, parent, {});
    const [from, to] = [treeOf(mounts), treeOf(onto)];
    await moveTree(from, to, synced).catch(async (error: unknown) => {
      await this.#remove(second).catch(() => {});
      throw error;
    });
    try {
      await this.#commit(name, second, labels);
    } catch (error) {
      // after any other error the second snapshot is possibly the committed one, whose files must stay
      if (isGrpcError(error, 'ALREADY_EXISTS')) {
        await rename(to, from);
        await this.#remove(second).catch(() => {});
      }
      throw error;
    }
    this.#forget(second);
    return onto;
  }

  /**
   * Looks at what was committed: a snapshotter that ignores the parent would leave a layer under the chain ID of several.
   * @param mounts of the snapshot when it was active, if they are known
   * @throws UnpackError STORE_FAILED after the removal of a snapshot with another parent
   */
  async #checkCommitted(name: string, parent: string, mounts: readonly Mount[] | undefined): Promise<void> {
    const committed = await this.#stat(name);
    if (committed.parent !== parent) {
      await this.#remove(name);
      const { snapshotter, socket } = this.#shared.place;
      throw new UnpackError(
        'STORE_FAILED',
        `the snapshotter ${snapshotter} of containerd at ${socket} has committed ${name} on ${committed.parent || 'no parent'} instead of ${parent || 'no parent'}: use its overlayfs`,
      );
    }
    const view = mounts && viewOf(mounts);
    if (view !== undefined) this.#shared.views.add(versionOf(committed), view);
  }

  async #viewMounts(name: string): Promise<readonly Mount[]> {
    const found = await this.#committed(name);
    if (found === undefined) throw new SnapshotError('NotFound', `there is no committed snapshot ${name}`);
    const known = this.#shared.views.get(versionOf(found));
    if (known !== undefined) return known;
    // only a view's mounts tell the directories; if it is collected at once, its mounts are right all the same
    const key = this.#temporaryKey('look', name);
    const { mounts } = await this.client.snapshots.View({ ...this.#key(key), parent: name }, this.#under);
    await this.#remove(key).catch(() => {});
    const view = mountsOf(mounts);
    this.#shared.views.add(versionOf(found), view);
    return view;
  }

  async #remove(key: string): Promise<void> {
    await this.client.snapshots.Remove(this.#key(key), { ...this.#under, deadline: LONG });
    this.#forget(key);
  }

  /** @throws FailedPrecondition if a process with this state directory leases it */
  async #removeUnleased(name: string): Promise<void> {
    const { files } = this.#shared;
    // nobody can take a lease and look meanwhile
    using _removing = await files.removing();
    const lease = files.held().find(({ names }) => names === undefined || names.has(name));
    if (lease === undefined) return await this.#remove(name);
    const who = holderName(lease.holder);
    const sentence = `snapshot ${name} can't be removed: ${who} needs it until its job has ended`;
    throw new SnapshotError('FailedPrecondition', sentence);
  }

  #forget(key: string): void {
    this.#shared.active.delete(key);
    this.#shared.durability.gone(key);
  }

  /** A key that the removal of leftovers recognises. @param name of a committed snapshot, or of one that will be */
  #temporaryKey(what: string, name: string): string {
    return `${this.extraction}${what}-${randomBytes(6).toString('hex')} ${name}`;
  }

  /** With containerd's label of a root, if no lease keeps the snapshot. */
  #labelled(labels: Labels): Labels {
    return this.#lease === undefined ? { ...labels, [LABEL_ROOT]: new Date().toISOString() } : labels;
  }

  #key(key: string): { readonly snapshotter: string; readonly key: string } {
    return { snapshotter: this.#shared.place.snapshotter, key };
  }

  get #under(): { readonly lease?: string } {
    return this.#lease === undefined ? {} : { lease: this.#lease.id };
  }
}

/** How a snapshot that was prepared without a parent is committed on one. */
interface LateParent {
  readonly parent: string;
  readonly labels: Labels;
  /** Whether the files are on disk, so that what the commit changes must be too. */
  readonly synced: boolean;
}

function requireKey(key: string): void {
  if (key === '') throw new SnapshotError('InvalidArgument', 'a key of a snapshot must not be empty');
}

/** @throws NotFound if an answer has no snapshot */
function present(snapshot: WireSnapshot | null, key: string): WireSnapshot {
  if (snapshot === null) throw new SnapshotError('NotFound', `containerd has returned nothing for the snapshot ${key}`);
  return snapshot;
}

function ownLease(lease: Lease): ContainerdLease {
  if (lease instanceof ContainerdLease) return lease;
  throw new TypeError('the lease is of another store');
}
