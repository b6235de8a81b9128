import { randomUUID } from 'node:crypto';
import { lstat, mkdir, readdir, rename, truncate } from 'node:fs/promises';
import { join } from 'node:path';

/** Files from this size on are emptied: they hold nearly all bytes, and few inodes. */
const LARGE = 64 * 1024;

/**
 * Where trees go that were measured on a disk, until all is over. Removing them would slow down whoever comes next:
 * before ext4 gives an inode away, it looks at each one that was freed in the last minutes, and leaves it alone
 * (`recently_deleted` in fs/ext4/ialloc.c). With 40,000 of them, that took longer than the unpacking.
 */
export class Shelf {
  readonly #folder: string;

  /** @param folder on the file system of what it gets */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Takes a tree away from where it is, and gives back most of its space. */
  async take(tree: string): Promise<void> {
    await mkdir(this.#folder, { recursive: true });
    const place = join(this.#folder, randomUUID());
    await rename(tree, place);
    await emptyLargeFiles(place);
  }

  /** The same with the content of each `fs` folder in a folder of snapshots; the snapshots stay, empty. */
  async takeSnapshots(snapshots: string): Promise<void> {
    for (const id of await readdir(snapshots)) {
      const root = join(snapshots, id, 'fs');
      await this.take(root);
      await mkdir(root);
    }
  }
}

async function emptyLargeFiles(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    if ((await lstat(path)).size >= LARGE) await truncate(path);
  }
}
