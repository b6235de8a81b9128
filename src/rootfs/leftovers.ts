import { randomBytes } from 'node:crypto';
import { type ChainId, isDigest } from '../oci/digest.ts';
import { Leases } from '../snapshots/leases.ts';
import { isSnapshotError, type Snapshotter } from '../snapshots/snapshotter.ts';
import type { Log } from './applier.ts';
import { ChainLocks } from './chain-locks.ts';

/**
 * The keys of extraction snapshots, and the removal of those that a crash left behind: they are recognised by their keys.
 * `apply-layers` makes the keys; the worker, `unpackd snapshots cleanup` and the store probe remove what is left.
 */

/**
 * The key of the snapshot that a layer is written into: `extract-<unique> <chain ID>`, the same form as in containerd.
 */
export function extractionKey({ extraction }: Pick<Snapshotter, 'extraction'>, chainId: ChainId): string {
  return `${extraction}${unique()} ${chainId}`;
}

/**
 * The key of the view of a layer's parent. The view exists while attributes are copied from the parent to the layer.
 */
export function viewKey({ extraction }: Pick<Snapshotter, 'extraction'>, chainId: ChainId): string {
  return `${extraction}view-${unique()} ${chainId}`;
}

/** The chain ID in a key that `keys(extraction)` has returned; `undefined` if this file has not made it. */
function chainIdOfKey(key: string): ChainId | undefined {
  const chainId = /^\S+ (\S+)$/.exec(key)?.[1];
  return chainId !== undefined && isDigest(chainId) ? (chainId as string as ChainId) : undefined;
}

/** The nanoseconds of the current second and three random bytes, the same form as in containerd. */
function unique(): string {
  return `${process.hrtime.bigint() % 1_000_000_000n}-${randomBytes(3).toString('base64url')}`;
}

/**
 * Removes the extraction snapshots of dead workers, directories that no snapshot owns, and files of locks and leases that
 * nobody holds. A living worker holds the lock on the chain ID while it extracts, so a snapshot whose lock is free is left
 * over.
 * @param locks the locks of this process on the store, if it has any
 * @returns the number of snapshots and directories that were removed
 * @throws the first error, after all other leftovers have been tried
 */
export async function removeLeftovers(
  snapshotter: Snapshotter,
  log?: Log,
  locks = new ChainLocks(snapshotter.state),
): Promise<number> {
  let removed = 0;
  const failures: unknown[] = [];
  for (const name of await snapshotter.keys(snapshotter.extraction)) {
    const chainId = chainIdOfKey(name);
    if (chainId === undefined) continue;
    try {
      using lock = await locks.tryAcquire(chainId);
      if (lock !== undefined) removed += await removeLeftoversOf(snapshotter, chainId, log);
    } catch (error) {
      failures.push(error);
    }
  }
  removed += await snapshotter.cleanup();
  await locks.tidy().catch((error: unknown) => failures.push(error));
  try {
    new Leases(snapshotter.state).tidy();
  } catch (error) {
    failures.push(error);
  }
  if (failures.length > 0) throw failures[0];
  return removed;
}

/** Removes what an earlier extraction of `chainId` left behind. The caller holds the lock on the chain ID. */
export async function removeLeftoversOf(snapshotter: Snapshotter, chainId: ChainId, log?: Log): Promise<number> {
  let removed = 0;
  for (const name of await snapshotter.keys(snapshotter.extraction)) {
    if (!name.endsWith(chainId) || chainIdOfKey(name) !== chainId) continue;
    try {
      await snapshotter.remove(name);
      removed++;
      log?.('info', `removed the extraction snapshot ${name} that a worker left behind`, { key: name });
    } catch (error) {
      if (!isSnapshotError(error, 'NotFound')) throw error;
    }
  }
  return removed;
}
