import type { ChainId } from '../oci/digest.ts';
import { isSnapshotError, type Snapshotter } from '../snapshots/snapshotter.ts';
import { ChainLocks } from './chain-locks.ts';
import { chainIdOfKey, EXTRACTION } from './extraction-key.ts';
import type { Log } from './log.ts';

/**
 * Removes the extraction snapshots that dead workers left behind, and directories that no snapshot owns. Those of
 * living workers are told apart by the lock on their chain ID, which a worker holds for as long as it extracts.
 * @returns how many snapshots and directories were removed
 * @throws what the first that can't be removed failed with, after all others
 */
export async function removeOrphans(snapshotter: Snapshotter, log?: Log): Promise<number> {
  const locks = new ChainLocks(snapshotter.root);
  let removed = 0;
  const failures: unknown[] = [];
  for (const name of await snapshotter.keys(EXTRACTION)) {
    const chainId = chainIdOfKey(name);
    if (chainId === undefined) continue;
    try {
      using lock = await locks.tryAcquire(chainId);
      if (lock !== undefined) removed += await removeLeftovers(snapshotter, chainId, log);
    } catch (error) {
      // one that can't be removed keeps no other
      failures.push(error);
    }
  }
  removed += await snapshotter.cleanup();
  if (failures.length > 0) throw failures[0];
  return removed;
}

/** Removes what an earlier apply of `chainId` left behind. The caller holds its lock, so nobody extracts it now. */
export async function removeLeftovers(snapshotter: Snapshotter, chainId: ChainId, log?: Log): Promise<number> {
  let removed = 0;
  for (const name of await snapshotter.keys(EXTRACTION)) {
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
