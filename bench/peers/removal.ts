import { randomUUID } from 'node:crypto';
import { lstat, mkdir, readdir, rename, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';

/** Files of at least this size are truncated. They hold nearly all bytes, and few inodes. */
const LARGE = 64 * 1024;

/**
 * Keeps the trees of measured runs on the disk until the benchmark ends. Removing them earlier would slow down the next
 * run: before ext4 reuses an inode, it looks at each inode that was freed in the last minutes, and skips it
 * (`recently_deleted` in fs/ext4/ialloc.c). With 40,000 of them this took longer than the unpacking.
 */
export class LateRemoval {
  readonly #folder: string;

  /** @param folder on the same file system as the trees */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Moves a tree into the folder and frees most of its space. */
  async take(tree: string): Promise<void> {
    await mkdir(this.#folder, { recursive: true });
    const place = join(this.#folder, randomUUID());
    await rename(tree, place);
    await emptyLargeFiles(place);
  }

  /** Does this with each `fs` folder in a folder of snapshots. The snapshots stay, empty. */
  async takeSnapshots(snapshots: string): Promise<void> {
    for (const id of (await readdir(snapshots)).filter((name) => /^\d+$/.test(name))) {
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

/** Removes every snapshot with its files, children first. */
export async function emptyStore(snapshotter: Snapshotter): Promise<void> {
  for (let left = await snapshotter.walk(); left.length > 0; left = await snapshotter.walk()) {
    const parents = new Set(left.map(({ parent }) => parent));
    for (const { name } of left) if (!parents.has(name)) await snapshotter.remove(name);
  }
  await snapshotter.cleanup();
}
