import { cString } from '../system/files.ts';
import type { MemoryBudget } from './layer-budget.ts';
import { SLASH } from './paths.ts';
import type { Root } from './root.ts';

/** Prefix of the names that AUFS used for its own files in the root of a layer (`.wh..wh.plnk`, `.wh..wh.orph`). */
export const AUFS_PREFIX = Buffer.from('.wh..wh.');

/**
 * The AUFS directory in the root that contains a clean path.
 * @returns `undefined` for all other paths
 */
export function aufsDirectoryOf(parent: Buffer): Buffer | undefined {
  if (!parent.subarray(0, AUFS_PREFIX.length).equals(AUFS_PREFIX)) return undefined;
  const slash = parent.indexOf(SLASH);
  return slash < 0 ? parent : parent.subarray(0, slash);
}

/**
 * The AUFS directories of a layer. They are not part of the image, but files of the image can be hard links to files in
 * them: AUFS kept files with several names in `.wh..wh.plnk`. So the files in AUFS directories are written like all
 * other files, and these directories are removed after the last entry.
 */
export class AufsDirectories {
  private readonly names = new Set<string>();
  private readonly root: Root;
  private readonly budget: MemoryBudget;

  constructor(root: Root, budget: MemoryBudget) {
    this.root = root;
    this.budget = budget;
  }

  /** Records an AUFS directory. Call it before something is written into that directory. */
  add(directory: Buffer): void {
    const name = directory.toString('latin1');
    if (!this.names.has(name)) this.names.add(this.budget.charge(name));
  }

  /** @param onRemoved called with the inode of every removed directory */
  removeAll(onRemoved: (inode: bigint) => void): void {
    for (const name of this.names)
      this.root.removeAll(this.root.tree.root, cString(Buffer.from(name, 'latin1')), onRemoved);
    this.names.clear();
  }
}
