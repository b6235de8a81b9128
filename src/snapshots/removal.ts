import { emptyTree } from '../system/remove-tree.ts';
import type { SnapshotDirectories } from './directories.ts';
import { holderName } from './holder.ts';
import type { HeldLease, Leases } from './leases.ts';
import type { Metadata } from './metadata.ts';
import { type StoreMounts, storeMounts } from './mounted.ts';
import { removeRecord } from './records.ts';
import { isFull, withReserve } from './reserve.ts';
import { type MountPlace, SnapshotError, type SnapshotInfo } from './snapshotter.ts';

const NO_MOUNTS: StoreMounts['places'] = new Map();

/**
 * Deletes the row of a snapshot that nobody needs, also on a full disk. SnapshotStore calls it, and removes the directory
 * afterwards.
 */
export class Removal {
  readonly #root: string;
  readonly #metadata: Metadata;
  readonly #directories: SnapshotDirectories;
  readonly #leases: Leases;
  readonly #mayUseReserve: boolean;

  /** @param mayUseReserve whether removals on a full disk may delete the reserve */
  constructor(
    root: string,
    metadata: Metadata,
    directories: SnapshotDirectories,
    leases: Leases,
    mayUseReserve: boolean,
  ) {
    this.#root = root;
    this.#metadata = metadata;
    this.#directories = directories;
    this.#leases = leases;
    this.#mayUseReserve = mayUseReserve;
  }

  /**
   * @param forContainerd whether containerd removes the snapshot, which it has claimed
   * @returns the number of the snapshot
   * @throws NotFound, FailedPrecondition (children, a claim, a lease, or a mount); the signal's reason
   */
  async deleteRow(
    { name, kind }: Pick<SnapshotInfo, 'name' | 'kind'>,
    signal: AbortSignal,
    forContainerd = false,
  ): Promise<number> {
    const mounts = kind === 'committed' ? (await storeMounts(this.#root)).places : NO_MOUNTS;
    return withReserve(this.#root, this.#mayUseReserve, () =>
      this.#deleteUnlessNeeded(name, mounts, forContainerd).catch(async (error: unknown) => {
        if (!isFull(error) || !(await this.#emptyActive(name, signal))) throw error;
        return this.#deleteUnlessNeeded(name, mounts, forContainerd);
      }),
    );
  }

  /** @param mounts of committed snapshots */
  async #deleteUnlessNeeded(key: string, mounts: StoreMounts['places'], forContainerd: boolean): Promise<number> {
    using _removing = await this.#leases.removing();
    return await this.#metadata.remove(key, ({ id, info }) => {
      if (!forContainerd) refuseClaimed(info);
      if (info.kind !== 'committed') return;
      refuseLeased(key, this.#leases.held());
      refuseMounted(key, mounts.get(id));
    });
  }

  /**
   * On a full disk, the metadata may have no space to delete a row. The files of an active snapshot can be deleted first,
   * because it is not committed and is about to be removed. This frees the disk after a layer has filled it.
   * @returns whether the snapshot is active
   */
  async #emptyActive(key: string, signal: AbortSignal): Promise<boolean> {
    const { id, info } = await this.#metadata.stat(key);
    if (info.kind !== 'active') return false;
    await removeRecord(this.#directories.own(id), 'committed'); // left by a crash during a commit
    await emptyTree(this.#directories.own(id, 'fs'), signal);
    return true;
  }
}

/** @throws FailedPrecondition if containerd knows the snapshot */
function refuseClaimed({ name, kind, claim }: SnapshotInfo): void {
  if (claim === undefined) return;
  const user = kind === 'committed' ? 'image (ctr images rm, crictl rmi)' : 'container (ctr containers rm, crictl rm)';
  throw new SnapshotError(
    'FailedPrecondition',
    `snapshot ${name} can't be removed: containerd uses it; remove its ${user} there first, or if that containerd is gone, run unpackd snapshots release`,
  );
}

/** @throws FailedPrecondition if a job needs the snapshot */
function refuseLeased(name: string, leases: readonly HeldLease[]): void {
  const lease = leases.find(({ names }) => names === undefined || names.has(name));
  if (lease === undefined) return;
  throw new SnapshotError(
    'FailedPrecondition',
    `snapshot ${name} can't be removed: ${holderName(lease.holder)} needs it until its job has ended`,
  );
}

/** @throws FailedPrecondition if the snapshot is mounted */
function refuseMounted(name: string, place: MountPlace | undefined): void {
  if (place === undefined) return;
  throw new SnapshotError(
    'FailedPrecondition',
    `snapshot ${name} can't be removed: it is mounted at ${place.point}, as process ${place.process} sees it; unmount it first`,
  );
}
