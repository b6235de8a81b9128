import { randomBytes } from 'node:crypto';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { toUnpackError } from '../errors.ts';
import { removeTree } from '../system/remove-tree.ts';
import { spaceOf } from '../system/space.ts';

/**
 * ROOT/reserve: files that keep some space and some inodes free for a full disk. Opening the store needs space for
 * SQLite's shared memory file and for a temporary directory. Without the reserve, nobody could open the store on a full
 * disk, and so nobody could remove snapshots or clean up. It is used only by the commands that remove (`unpackd images rm`,
 * `unpackd snapshots rm`, `release` and `cleanup`, `unpackd gc`), by `unpackd snapshotter`, and by a worker that collects or
 * serves containerd. It is smaller on a disk with less than 32 MiB free.
 */
const FILES = 8;
/** Size of each file, if there is plenty of space. */
const MOST_BYTES = 64 << 10;
/** The smallest size that is of use: SQLite's shared memory takes 32 KiB. */
const LEAST_BYTES = 8 << 10;
/** The reserve takes this part of the free space, and of the free inodes, at most. */
const SHARE = 64;

const path = (root: string): string => join(root, 'reserve');

/** Makes the reserve, or completes it, if the disk has enough space. Failures are ignored: the store works without it. */
export async function keepReserve(root: string): Promise<void> {
  try {
    const { bytes, inodes } = spaceOf(root);
    const size = Math.min(MOST_BYTES, (Math.floor(bytes / SHARE / FILES) >> 12) << 12);
    if (size < LEAST_BYTES || (inodes !== undefined && inodes < SHARE * FILES)) return;
    await mkdir(path(root), { recursive: true, mode: 0o700 });
    for (let index = 0; index < FILES; index++) {
      const file = join(path(root), `${index}`);
      const there = await stat(file).catch(() => undefined);
      // random bytes, because some file systems compress zeros
      if ((there?.size ?? 0) < size) await writeFile(file, randomBytes(size), { mode: 0o600 });
    }
  } catch {}
}

/**
 * Makes a call. If it finds the disk full, deletes the reserve and makes the call once more.
 * @param mayUse otherwise the call is made once
 * @throws as the call; the first error if there is no reserve
 */
export async function withReserve<T>(root: string, mayUse: boolean, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (!mayUse || !isFull(error) || !(await spend(root))) throw error;
    return await call();
  }
}

/** Whether an error means that the disk is full. */
export function isFull(error: unknown): boolean {
  return toUnpackError(error).code === 'STORE_FULL';
}

/** Deletes the reserve. @returns whether there was one */
async function spend(root: string): Promise<boolean> {
  try {
    await stat(path(root));
    await removeTree(path(root));
    return true;
  } catch {
    return false;
  }
}
