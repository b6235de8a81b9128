import { existsSync } from 'node:fs';
import { toUnpackError, type UnpackError } from '../errors.ts';
import { storeGone } from '../snapshots/directories.ts';
import { spaceOf } from '../system/space.ts';

/**
 * Whatever was thrown while a layer was written below `path`, as an UnpackError. A failure of the store says where that
 * is, and a full one what was free at that moment: whoever looks later finds that the failed layer has made room.
 */
export function inPlace(thrown: unknown, path: string): UnpackError {
  const failure = toUnpackError(thrown);
  if (failure.code === 'STORE_FULL') return failure.with({}, `${path} (${free(path)} free): `);
  // in a directory that is no more, every name of the archive is one that there is not
  if (failure.code === 'LAYER_CORRUPT' && !existsSync(path)) return storeGone(path, thrown);
  if (failure.code === 'STORE_FAILED') return failure.with({}, `${path}: `);
  return failure;
}

function free(path: string): string {
  try {
    const { bytes, inodes } = spaceOf(path);
    return `${bytes} bytes${inodes === undefined ? '' : ` and ${inodes} inodes`}`;
  } catch {
    return 'it does not say how much is';
  }
}
