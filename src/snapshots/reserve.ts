import { randomBytes } from 'node:crypto';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { removeTree } from '../system/remove-tree.ts';
import { spaceOf } from '../system/space.ts';

/**
 * A little space and a few inodes that a store keeps for a bad day, in ROOT/reserve. On a disk that is full to the last
 * byte nobody could open the store, since that takes a shared memory map and a directory to try things out in, and so
 * nobody could remove anything from it, nor clear away what a killed worker has left.
 */
const FILES = 8;
/** Of each. */
const BYTES = 64 << 10;
/** It is taken only from a disk on which it isn't missed. */
const PLENTY = { bytes: 256 * FILES * BYTES, inodes: 256 * FILES };

const path = (root: string): string => join(root, 'reserve');

/** Puts it aside, if the disk has plenty. Whoever has no reserve only lacks that. */
export async function keepReserve(root: string): Promise<void> {
  try {
    const { bytes, inodes } = spaceOf(root);
    if (bytes < PLENTY.bytes || (inodes !== undefined && inodes < PLENTY.inodes)) return;
    await mkdir(path(root), { recursive: true, mode: 0o700 });
    const there = new Set(await readdir(path(root)));
    for (let index = 0; index < FILES; index++) {
      // random, because some file systems take next to nothing for zeros
      if (!there.has(`${index}`)) await writeFile(join(path(root), `${index}`), randomBytes(BYTES), { mode: 0o600 });
    }
  } catch {}
}

/** Gives it back to the disk; says whether there was one. */
export async function spendReserve(root: string): Promise<boolean> {
  try {
    await stat(path(root));
    await removeTree(path(root));
    return true;
  } catch {
    return false;
  }
}
