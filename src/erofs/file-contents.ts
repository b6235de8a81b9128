import type { Charge, InodeTable } from './inode-table.ts';

/** A part of a file that has data. Parts ascend and do not overlap. */
export interface Extent {
  /** Where it begins in the file. */
  readonly position: number;
  /** Where its bytes begin in the tar. */
  readonly offset: number;
  readonly length: number;
}

/** Bytes of memory for an extent in a list. */
const EXTENT_BYTES = 64;

/**
 * Where the contents of files lie in the tar. Nearly all files are one piece from their first to their last byte, and need
 * only a number in the table of inodes. The others, with holes, have a list of extents.
 */
export class FileContents {
  private readonly lists = new Map<number, Extent[]>();
  private readonly inodes: InodeTable;
  private readonly charge: Charge;

  constructor(inodes: InodeTable, charge: Charge) {
    this.inodes = inodes;
    this.charge = charge;
  }

  /** Adds data after the data that the file has. */
  write(file: number, position: number, offset: number, length: number): void {
    if (length === 0) return;
    const { size, place } = this.inodes;
    const end = size[file] ?? 0;
    const first = place[file] ?? 0;
    if (!this.lists.has(file) && position === end && (end === 0 || offset === first + end)) {
      if (end === 0) place[file] = offset;
      size[file] = end + length;
      return;
    }
    const list = this.listOf(file);
    const last = list.at(-1);
    if (last !== undefined && last.position + last.length === position && last.offset + last.length === offset) {
      list[list.length - 1] = { ...last, length: last.length + length };
    } else {
      this.charge(EXTENT_BYTES);
      list.push({ position, offset, length });
    }
    size[file] = Math.max(end, position + length);
  }

  truncate(file: number, size: number): void {
    if (size === this.inodes.size[file]) return;
    const list = this.listOf(file);
    for (let last = list.at(-1); last !== undefined && last.position + last.length > size; last = list.at(-1)) {
      list.pop();
      if (last.position < size) list.push({ ...last, length: size - last.position });
      else this.charge(-EXTENT_BYTES);
    }
    this.inodes.size[file] = size;
  }

  /** The parts of a file that have data; what is between them, before and after, are holes. */
  extents(file: number): readonly Extent[] {
    const list = this.lists.get(file);
    if (list !== undefined) return list;
    const length = this.inodes.size[file] ?? 0;
    return length === 0 ? [] : [{ position: 0, offset: this.inodes.place[file] ?? 0, length }];
  }

  /** The offset in the tar of a file without holes, of 0 bytes too. @returns -1 if it has holes: `extents` tells where its data are */
  start(file: number): number {
    return this.lists.has(file) ? -1 : (this.inodes.place[file] ?? 0);
  }

  /** Forgets a file that was removed. */
  remove(file: number): void {
    const list = this.lists.get(file);
    if (list === undefined) return;
    this.lists.delete(file);
    this.charge(-EXTENT_BYTES * list.length);
  }

  private listOf(file: number): Extent[] {
    let list = this.lists.get(file);
    if (list === undefined) {
      list = [...this.extents(file)];
      this.charge(EXTENT_BYTES * list.length);
      this.lists.set(file, list);
    }
    return list;
  }
}
