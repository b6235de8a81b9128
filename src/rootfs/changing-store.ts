import type { DiffTarget } from '../diff/target.ts';
import { type FailureCode, throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import { failureAt } from '../snapshots/directories.ts';
import { isSnapshotError, type Mount } from '../snapshots/snapshotter.ts';
import type { TemporarySnapshot } from './temporary-snapshot.ts';

/**
 * What `apply-layers` does if another process removes or replaces the layers that it works on: it makes them again, or reads
 * them again, MAX_TRIES times at most.
 */

/** Maximum number of times that a layer is made, or looked at, again because another process has changed the store. */
export const MAX_TRIES = 8;

/** @param what a sentence about the layers that do not stay in the store */
export function vanishing(what: string, cause?: unknown): UnpackError {
  const message = `${what}: find the process that removes snapshots while they are used`;
  return new UnpackError('STORE_FAILED', message, { cause });
}

/** Failures that the removal of a layer's snapshot can have, while the layer is written or committed. */
const OF_REMOVAL = new Set<FailureCode>(['STORE_FAILED', 'INTERNAL']);

/** @returns the failure if somebody has removed the snapshot that a layer is written into; else `error` unchanged */
export async function explainRemoval(error: unknown, layer: TemporarySnapshot): Promise<unknown> {
  const { code, details } = toUnpackError(error);
  // a failure that has a layer already is that of a layer below
  if (!OF_REMOVAL.has(code) || details.layerIndex !== undefined || !(await layer.isRemoved())) return error;
  return vanishing(`its unfinished snapshot ${layer.key} was removed`, error);
}

/**
 * Makes a call that needs a snapshot. Somebody may have removed the snapshot since it was made; then it is made again.
 * @throws as both
 */
export async function onSnapshot<T>(call: () => Promise<T>, makeAgain: () => Promise<unknown>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await call();
    } catch (error) {
      if (!isSnapshotError(error, 'NotFound') || tries === MAX_TRIES) throw error;
      await makeAgain();
    }
  }
}

/**
 * Reads the layers below through a view. If one of them is replaced meanwhile, what was read is possibly incomplete, and it is
 * read again through a new view.
 * @param target the directory that is written, for errors
 * @throws UnpackError
 */
export async function readBelow<T>(
  view: () => Promise<TemporarySnapshot>,
  read: (mounts: readonly Mount[]) => Promise<T>,
  { root, collectedBy }: Pick<DiffTarget, 'root' | 'collectedBy'>,
  signal: AbortSignal | undefined,
): Promise<T> {
  for (let tries = 1; ; tries++) {
    await using below = await view();
    try {
      const result = await read(below.mounts);
      if (!(await below.hasMoved())) return result;
    } catch (error) {
      throwIfAborted(signal);
      if (tries === MAX_TRIES || !(await below.hasMoved().catch(() => false)))
        throw failureAt(error, root, collectedBy);
    }
    if (tries === MAX_TRIES) throw vanishing('the layers below it are replaced all the time');
  }
}
