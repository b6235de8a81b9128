import { rename } from 'node:fs/promises';
import { UnpackError } from '../../errors.ts';
import { isGrpcError } from '../../grpc/errors.ts';
import type { Labels, WireSnapshot } from '../../grpc/services.ts';
import { type CommitOptions, type Mount, SnapshotError } from '../snapshotter.ts';
import { giveOwnerOf, moveTree, topTreeOf, treeOf, viewOf, viewOn } from './exchange.ts';
import type { ActiveSnapshot } from './leases.ts';
import type { SnapshotCalls } from './snapshot-calls.ts';
import { LABEL_SYNCED, versionOf, visibleLabels } from './wire.ts';

/**
 * Commits a snapshot of containerd, for the snapshotter. A layer that was written without its parent gets it in one of two ways:
 *
 *     rebase     the snapshotter has this capability: its commit gives the parent
 *     exchange   prepare a second snapshot on the parent → move the tree over its empty one → commit the second one →
 *                remove the first one, which is empty
 *
 * A snapshotter without `rebase` ignores the parent of a commit and reports nothing. So what was committed is looked at in any
 * case.
 * @throws as Snapshotter.commit; GrpcError
 */
export async function commitSnapshot(
  calls: SnapshotCalls,
  name: string,
  key: string,
  { labels: given = {}, parent = '', synced = false }: CommitOptions,
): Promise<void> {
  const { durability, place } = calls.opened;
  const active = await calls.active(key);
  if (active.parent !== '' && parent !== '' && active.parent !== parent) {
    throw new SnapshotError('InvalidArgument', `snapshot ${key} has the parent ${active.parent} already`);
  }
  const labels = calls.labelled({ ...visibleLabels(given), ...(synced ? { [LABEL_SYNCED]: 'true' } : {}) });
  const isLate = parent !== '' && active.parent === '';
  const isExchange = isLate && !place.canRebase;
  const committing = { name, key, active, parent: isLate ? parent : active.parent, labels, synced };
  const make = isExchange ? exchange : isLate ? rebase : keepParent;
  const view = await make(calls, committing);
  calls.forget(key);
  calls.lease?.committed(name);
  // the first snapshot of an exchange; if its removal fails, it goes with the lease
  const removed = isExchange ? calls.remove(key).catch(() => {}) : undefined;
  const [committed] = await Promise.all([check(calls, committing, view), removed]);
  durability.committed(committed, active.number, synced);
}

interface Committing {
  readonly name: string;
  readonly key: string;
  readonly active: ActiveSnapshot;
  /** The parent that the committed snapshot must have; `""` for none. */
  readonly parent: string;
  readonly labels: Labels;
  /** Whether the files are on disk, so that what the commit changes must be too. */
  readonly synced: boolean;
}

/** The mounts of a view of what was committed; `undefined` if they are not known. */
type ViewMounts = readonly Mount[] | undefined;

async function keepParent(calls: SnapshotCalls, { name, key, active, labels }: Committing): Promise<ViewMounts> {
  await calls.commit(name, key, labels);
  return viewOf(active.mounts);
}

async function rebase(
  calls: SnapshotCalls,
  { name, key, active, parent, labels, synced }: Committing,
): Promise<ViewMounts> {
  const below = await calls.viewMounts(parent);
  const tree = treeOf(active.mounts);
  await giveOwnerOf(topTreeOf(below), tree, synced);
  await calls.commit(name, key, labels, parent);
  return viewOn(tree, below);
}

/** If containerd refuses the commit for good, the files move back, and the first snapshot can be used again. */
async function exchange(
  calls: SnapshotCalls,
  { name, active, parent, labels, synced }: Committing,
): Promise<ViewMounts> {
  const second = calls.temporaryKey('onto', name);
  const mounts = await calls.prepare(second, parent, {});
  // this call is its only user, whatever happens
  calls.forget(second);
  const [from, to] = [treeOf(active.mounts), treeOf(mounts)];
  const discard = () => calls.remove(second).catch(() => {}); // it is under the lease
  await moveTree(from, to, synced).catch(async (error: unknown) => {
    await discard();
    throw error;
  });
  try {
    await calls.commit(name, second, labels);
  } catch (error) {
    // after any other error, the second snapshot is possibly the committed one, whose files must stay
    if (isGrpcError(error, 'ALREADY_EXISTS')) {
      await rename(to, from);
      await discard();
    }
    throw error;
  }
  return viewOf(mounts);
}

/**
 * Compares the parent of what was committed, and remembers the mounts of its view.
 * @returns what was committed
 * @throws UnpackError STORE_FAILED after the removal of a snapshot with another parent
 */
async function check(calls: SnapshotCalls, { name, parent }: Committing, view: ViewMounts): Promise<WireSnapshot> {
  const { place, views } = calls.opened;
  const committed = await calls.stat(name);
  if (committed.parent !== parent) {
    await calls.remove(name);
    const [is, wanted] = [committed.parent, parent].map((each) => (each === '' ? 'no parent' : each));
    throw new UnpackError(
      'STORE_FAILED',
      `the snapshotter ${place.snapshotter} of containerd at ${place.socket} has committed ${name} on ${is} instead of ${wanted}: set UNPACK_CONTAINERD_SNAPSHOTTER=overlayfs`,
    );
  }
  if (view !== undefined) views.add(versionOf(committed), view);
  return committed;
}
