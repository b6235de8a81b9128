import { cString } from '../system/files.ts';
import type { MemoryBudget } from './layer-budget.ts';
import { SLASH } from './paths.ts';
import type { Root } from './root.ts';

/** How the names begin that AUFS gave to what it kept in the root of a layer. */
export const META_PREFIX = Buffer.from('.wh..wh.');

/** The directory of AUFS's own in the root that a clean path leads through, if it does. */
export function aufsDirectoryOf(parent: Buffer): Buffer | undefined {
  if (!parent.subarray(0, META_PREFIX.length).equals(META_PREFIX)) return undefined;
  const slash = parent.indexOf(SLASH);
  return slash < 0 ? parent : parent.subarray(0, slash);
}

/**
 * Directories of AUFS's own. They are none of the image's, but files of the image may be hard links into them: AUFS kept
 * files with several names in `.wh..wh.plnk`. So what is in there is written like anything else, and removed at the end.
 */
export class AufsDirectories {
  private readonly names = new Set<string>();
  private readonly root: Root;
  private readonly budget: MemoryBudget;

  constructor(root: Root, budget: MemoryBudget) {
    this.root = root;
    this.budget = budget;
  }

  /** Something is about to be written in the directory of that name. */
  add(directory: Buffer): void {
    const name = directory.toString('latin1');
    if (!this.names.has(name)) this.names.add(this.budget.charge(name));
  }

  /** @param gone is told of every directory that goes */
  removeAll(gone: (inode: bigint) => void): void {
    for (const name of this.names) this.root.removeAll(this.root.fd, cString(Buffer.from(name, 'latin1')), gone);
    this.names.clear();
  }
}
