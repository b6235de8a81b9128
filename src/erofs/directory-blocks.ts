import { BLOCK, DIRENT, entryType } from './format.ts';
import type { TreeContents } from './tree-contents.ts';

/** Stand for the entries `.` and `..` in a listing. */
const SELF = -1;
const ABOVE = -2;
const DOT = 0x2e;

/**
 * The blocks of directories: in each block first the entries, then their names, sorted by bytes over the whole directory.
 * `.` and `..` are entries as others, in their place of the order.
 */
export class DirectoryBlocks {
  readonly #tree: TreeContents;
  #listing = new Int32Array(1024);
  readonly #name = Buffer.alloc(256);

  constructor(tree: TreeContents) {
    this.#tree = tree;
  }

  /** The size of a directory in bytes. Only the last block counts with what it uses. */
  size(directory: number): number {
    let full = 0;
    let used = 0;
    for (const entry of this.#list(directory)) {
      const bytes = DIRENT + this.#length(entry);
      if (used + bytes > BLOCK) {
        full++;
        used = 0;
      }
      used += bytes;
    }
    return full * BLOCK + used;
  }

  /**
   * Writes the blocks of a directory to a buffer that is zero there.
   * @param nid the number of an inode in the image
   * @returns the end
   */
  write(directory: number, to: Buffer, at: number, nid: (inode: number) => number): number {
    const listing = this.#list(directory);
    let block = at;
    for (let next = 0; next < listing.length; block += BLOCK) {
      const first = next;
      for (let used = 0; next < listing.length; next++) {
        used += DIRENT + this.#length(listing[next] ?? SELF);
        if (used > BLOCK) break;
      }
      let name = DIRENT * (next - first);
      for (let each = first; each < next; each++) {
        const entry = listing[each] ?? SELF;
        const inode = this.#target(directory, entry);
        const slot = block + DIRENT * (each - first);
        to.writeUInt32LE(nid(inode), slot);
        to.writeUInt16LE(name, slot + 8);
        to[slot + 10] = entryType(this.#tree.modeOf(inode));
        name += this.#copyName(entry, to, block + name);
      }
    }
    return block;
  }

  /** The entries of a directory in order, with `.` and `..`. Valid until the next call. */
  #list(directory: number): Int32Array {
    const entries = this.#tree.entriesOf(directory);
    if (this.#listing.length < entries.length + 2) this.#listing = new Int32Array(2 * entries.length + 2);
    const listing = this.#listing;
    let count = 0;
    let dots = 0;
    for (const entry of entries) {
      while (dots < 2 && !this.#isBefore(entry, dots + 1)) listing[count++] = dots++ === 0 ? SELF : ABOVE;
      listing[count++] = entry;
    }
    while (dots < 2) listing[count++] = dots++ === 0 ? SELF : ABOVE;
    return listing.subarray(0, count);
  }

  /** Whether an entry comes before the name that is `dots` dots. */
  #isBefore(entry: number, dots: number): boolean {
    const length = this.#tree.nameBytes(entry);
    this.#tree.copyName(entry, this.#name, 0);
    for (let index = 0; index < dots; index++) {
      if (index >= length) return true;
      const byte = this.#name[index] ?? 0;
      if (byte !== DOT) return byte < DOT;
    }
    return false;
  }

  #length(entry: number): number {
    return entry < 0 ? -entry : this.#tree.nameBytes(entry);
  }

  #target(directory: number, entry: number): number {
    if (entry === SELF) return directory;
    return entry === ABOVE ? this.#tree.parentOf(directory) : this.#tree.inodeOf(entry);
  }

  /** @returns the length of the name */
  #copyName(entry: number, to: Buffer, at: number): number {
    if (entry < 0) to.fill(DOT, at, at - entry);
    else this.#tree.copyName(entry, to, at);
    return this.#length(entry);
  }
}
