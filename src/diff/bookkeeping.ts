import { cString } from '../system/files.ts';
import { SLASH } from './paths.ts';
import type { Remembered } from './remembered.ts';
import type { Root } from './root.ts';

/** How the names begin that AUFS gave to what it kept in the root of a layer. */
export const META_PREFIX = Buffer.from('.wh..wh.');

/** The directory of AUFS's own in the root that a clean path leads through, if it does. */
export function bookkeepingOf(parent: Buffer): Buffer | undefined {
  if (!parent.subarray(0, META_PREFIX.length).equals(META_PREFIX)) return undefined;
  const slash = parent.indexOf(SLASH);
  return slash < 0 ? parent : parent.subarray(0, slash);
}

/**
 * Directories of AUFS's own. They are none of the image's, but files of the image may be hard links into them: AUFS kept
 * files with several names in `.wh..wh.plnk`. So what is in there is written like anything else, and removed at the end.
 */
export class Bookkeeping {
  private readonly names = new Set<string>();
  private readonly root: Root;
  private readonly remembered: Remembered;

  constructor(root: Root, remembered: Remembered) {
    this.root = root;
    this.remembered = remembered;
  }

  /** Something is about to be written in the directory of that name. */
  add(directory: Buffer): void {
    const name = directory.toString('latin1');
    if (!this.names.has(name)) this.names.add(this.remembered.path(name));
  }

  /** @param gone is told of every directory that goes */
  removeAll(gone: (inode: bigint) => void): void {
    for (const name of this.names) this.root.removeAll(this.root.fd, cString(Buffer.from(name, 'latin1')), gone);
    this.names.clear();
  }
}
