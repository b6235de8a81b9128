import { randomBytes } from 'node:crypto';
import { undefinedIfNotFound } from '../../grpc/errors.ts';
import type { Labels, WireSnapshot } from '../../grpc/services.ts';
import { holderName } from '../holder.ts';
import { type Mount, SnapshotError } from '../snapshotter.ts';
import type { ActiveSnapshot, ActiveSnapshots, ContainerdLease } from './leases.ts';
import type { Opened } from './opened.ts';
import { kindOf, LABEL_ROOT, LABEL_STATE, mountsOf, versionOf } from './wire.ts';

/** Milliseconds for a commit or a removal: containerd counts or deletes the files of the layer meanwhile. */
export const LONG = 600_000;

/**
 * The calls of containerd's snapshot service under one lease, or without one. The snapshotter and the commit use them. Each
 * throws GrpcError besides what it names.
 */
export class SnapshotCalls {
  readonly opened: Opened;
  readonly lease: ContainerdLease | undefined;

  constructor(opened: Opened, lease: ContainerdLease | undefined) {
    this.opened = opened;
    this.lease = lease;
  }

  /** @throws NotFound */
  async stat(key: string): Promise<WireSnapshot> {
    requireKey(key);
    return present((await this.#snapshots.Stat(this.#key(key), this.#under)).info, key);
  }

  /** The committed snapshot of this name, which the lease keeps from now on; `undefined` if there is none. */
  async committed(name: string): Promise<WireSnapshot | undefined> {
    const found = await this.#ifCommitted(name);
    if (found === undefined || this.lease === undefined || this.lease.covers(name)) return found;
    await this.lease.cover(name);
    return this.#ifCommitted(name);
  }

  async list(filters: readonly string[]): Promise<WireSnapshot[]> {
    const { snapshotter } = this.opened.place;
    const found: WireSnapshot[] = [];
    for await (const { info } of this.#snapshots.List({ snapshotter, filters })) found.push(...info);
    return found;
  }

  async prepare(key: string, parent: string, labels: Labels): Promise<Mount[]> {
    requireKey(key);
    const { durability, state } = this.opened;
    const own = this.labelled({ ...labels, [LABEL_STATE]: state.id });
    const number = durability.begin();
    const request = { ...this.#key(key), parent, labels: own };
    const mounts = mountsOf((await this.#snapshots.Prepare(request, this.#under)).mounts);
    this.#active.set(key, { parent, mounts, number });
    return mounts;
  }

  /** Whether this process has prepared the snapshot, and has neither committed nor removed it. */
  isActive(key: string): boolean {
    return this.#active.has(key);
  }

  async view(key: string, parent: string, labels: Labels): Promise<Mount[]> {
    requireKey(key);
    const request = { ...this.#key(key), parent, labels: this.labelled(labels) };
    return mountsOf((await this.#snapshots.View(request, this.#under)).mounts);
  }

  async mounts(key: string): Promise<Mount[]> {
    return mountsOf((await this.#snapshots.Mounts(this.#key(key), this.#under)).mounts);
  }

  /** @throws NotFound, InvalidArgument if the snapshot is not active */
  async active(key: string): Promise<ActiveSnapshot> {
    const known = this.#active.get(key);
    if (known !== undefined) return known;
    const found = await this.stat(key);
    if (kindOf(found) !== 'active') throw new SnapshotError('InvalidArgument', `snapshot ${key} is not active`);
    return { parent: found.parent, mounts: await this.mounts(key) };
  }

  /** @throws NotFound */
  async viewMounts(name: string): Promise<readonly Mount[]> {
    const { views } = this.opened;
    const found = await this.committed(name);
    if (found === undefined) throw new SnapshotError('NotFound', `there is no committed snapshot ${name}`);
    const known = views.get(versionOf(found));
    if (known !== undefined) return known;
    // only a view's mounts tell the directories; if it is collected at once, its mounts are right all the same
    const key = this.temporaryKey('look', name);
    const request = { ...this.#key(key), parent: name };
    const mounts = mountsOf((await this.#snapshots.View(request, this.#under)).mounts);
    await this.remove(key).catch(() => {});
    views.add(versionOf(found), mounts);
    return mounts;
  }

  /** @param parent for a snapshotter that can rebase */
  async commit(name: string, key: string, labels: Labels, parent?: string): Promise<void> {
    const request = { ...this.#key(key), name, labels, ...(parent === undefined ? {} : { parent }) };
    await this.#snapshots.Commit(request, { ...this.#under, deadline: LONG });
  }

  async remove(key: string): Promise<void> {
    // also if the removal fails: it goes with its lease then, or the removal of leftovers finds it
    this.forget(key);
    await this.#snapshots.Remove(this.#key(key), { ...this.#under, deadline: LONG });
    this.opened.durability.gone(key);
  }

  /** Removes a committed snapshot. @throws FailedPrecondition if a process with this state directory leases it */
  async removeUnleased(name: string): Promise<void> {
    const { files } = this.opened;
    // nobody can take a lease and look meanwhile
    using _removing = await files.removing();
    const lease = files.held().find(({ names }) => names === undefined || names.has(name));
    if (lease === undefined) return await this.remove(name);
    const who = holderName(lease.holder);
    const sentence = `snapshot ${name} can't be removed: ${who} needs it until its job has ended`;
    throw new SnapshotError('FailedPrecondition', sentence);
  }

  /** @throws NotFound */
  async update(name: string, labels: Labels, paths: readonly string[]): Promise<WireSnapshot> {
    const { snapshotter } = this.opened.place;
    const request = { snapshotter, info: { name, labels }, updateMask: { paths } };
    return present((await this.#snapshots.Update(request, this.#under)).info, name);
  }

  async usage(key: string): Promise<{ readonly size: number; readonly inodes: number }> {
    return this.#snapshots.Usage(this.#key(key), { deadline: LONG });
  }

  /** Forgets an active snapshot. */
  forget(key: string): void {
    this.#active.delete(key);
  }

  /** A key that the removal of leftovers recognises. @param name of a committed snapshot, or of one that will be */
  temporaryKey(what: string, name: string): string {
    return `${this.opened.extraction}${what}-${randomBytes(6).toString('hex')} ${name}`;
  }

  /** With containerd's label of a root, if no lease keeps the snapshot. */
  labelled(labels: Labels): Labels {
    return this.lease === undefined ? { ...labels, [LABEL_ROOT]: new Date().toISOString() } : labels;
  }

  async #ifCommitted(name: string): Promise<WireSnapshot | undefined> {
    if (name === '') return undefined;
    const found = await this.stat(name).catch(undefinedIfNotFound);
    return found !== undefined && kindOf(found) === 'committed' ? found : undefined;
  }

  #key(key: string): { readonly snapshotter: string; readonly key: string } {
    return { snapshotter: this.opened.place.snapshotter, key };
  }

  get #active(): ActiveSnapshots {
    return this.lease?.active ?? this.opened.active;
  }

  get #snapshots() {
    return this.opened.client.snapshots;
  }

  get #under(): { readonly lease?: string } {
    return this.lease === undefined ? {} : { lease: this.lease.id };
  }
}

function requireKey(key: string): void {
  if (key === '') throw new SnapshotError('InvalidArgument', 'a key of a snapshot must not be empty');
}

/** @throws NotFound if an answer has no snapshot */
function present(snapshot: WireSnapshot | null, key: string): WireSnapshot {
  if (snapshot === null) throw new SnapshotError('NotFound', `containerd has returned nothing for the snapshot ${key}`);
  return snapshot;
}
