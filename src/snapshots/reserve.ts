import { randomBytes } from 'node:crypto';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { removeTree } from '../system/remove-tree.ts';
import { spaceOf } from '../system/space.ts';

/**
 * ROOT/reserve: files that keep some space and some inodes free for a full disk. Opening the store needs space for
 * SQLite's shared memory file and for a temporary directory. Without the reserve, nobody could open the store on a full
 * disk, and so nobody could remove snapshots or clean up.
 */
const FILES = 8;
/** Size of each file. */
const BYTES = 64 << 10;
/** The reserve is made only if at least this much is free. */
const PLENTY = { bytes: 256 * FILES * BYTES, inodes: 256 * FILES };

const path = (root: string): string => join(root, 'reserve');

/** Makes the reserve, or completes it, if the disk has enough space. Failures are ignored: the store works without it. */
export async function keepReserve(root: string): Promise<void> {
  try {
    const { bytes, inodes } = spaceOf(root);
    if (bytes < PLENTY.bytes || (inodes !== undefined && inodes < PLENTY.inodes)) return;
    await mkdir(path(root), { recursive: true, mode: 0o700 });
    const there = new Set(await readdir(path(root)));
    for (let index = 0; index < FILES; index++) {
      // random bytes, because some file systems compress zeros
      if (!there.has(`${index}`)) await writeFile(join(path(root), `${index}`), randomBytes(BYTES), { mode: 0o600 });
    }
  } catch {}
}

/** Deletes the reserve. @returns whether there was one */
export async function spendReserve(root: string): Promise<boolean> {
  try {
    await stat(path(root));
    await removeTree(path(root));
    return true;
  } catch {
    return false;
  }
}
