import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, type Timespec } from '../system/files.ts';
import type { DirectoryEntries } from './directory-entries.ts';
import type { ExtendedAttributes } from './extended-attributes.ts';
import type { Extent, FileContents } from './file-contents.ts';
import type { InodeTable } from './inode-table.ts';

/**
 * What a tree in memory holds, for the writer of an EROFS index: only what the root leads to, in an order that depends on
 * the tree alone. Inodes and entries are rows, small numbers, so that a writer can keep its own data in typed arrays of
 * `inodeRows`. Buffers are views: valid until the tree changes.
 */
export class TreeContents {
  readonly root: number;
  private readonly inodes: InodeTable;
  private readonly entries: DirectoryEntries;
  private readonly files: FileContents;
  private readonly attributes: ExtendedAttributes;

  constructor(
    root: number,
    inodes: InodeTable,
    entries: DirectoryEntries,
    files: FileContents,
    attributes: ExtendedAttributes,
  ) {
    this.root = root;
    this.inodes = inodes;
    this.entries = entries;
    this.files = files;
    this.attributes = attributes;
  }

  /** Number of rows of inodes, with those that were removed. */
  get inodeRows(): number {
    return this.inodes.count;
  }

  /** The directories, each before those in it, and in the order of their names. */
  *directories(): Generator<{ readonly directory: number; readonly entries: Int32Array }> {
    const rest = [this.root];
    for (let directory = rest.pop(); directory !== undefined; directory = rest.pop()) {
      const entries = this.entriesOf(directory);
      for (let i = entries.length - 1; i >= 0; i--) {
        const inode = this.inodeOf(entries[i] ?? 0);
        if (this.typeOf(inode) === S_IFDIR) rest.push(inode);
      }
      yield { directory, entries };
    }
  }

  /** The entries of a directory without `.` and `..`, sorted by the bytes of their names. */
  entriesOf(directory: number): Int32Array {
    return this.entries.sorted(directory);
  }

  /** The name of an entry, without a NUL. */
  nameOf(entry: number): Buffer {
    return this.entries.name(entry);
  }

  /** The length of an entry's name in bytes. */
  nameBytes(entry: number): number {
    return this.entries.nameBytes(entry);
  }

  copyName(entry: number, to: Buffer, at: number): void {
    this.entries.copyName(entry, to, at);
  }

  inodeOf(entry: number): number {
    return this.entries.inode[entry] ?? 0;
  }

  /** The directory above a directory; for the root itself. */
  parentOf(directory: number): number {
    return directory === this.root ? directory : (this.entries.parent[this.inodes.place[directory] ?? 0] ?? this.root);
  }

  /** Type and permission bits. */
  modeOf(inode: number): number {
    return this.inodes.mode[inode] ?? 0;
  }

  /** The type bits of the mode. */
  typeOf(inode: number): number {
    return this.modeOf(inode) & S_IFMT;
  }

  uidOf(inode: number): number {
    return this.inodes.uid[inode] ?? 0;
  }

  gidOf(inode: number): number {
    return this.inodes.gid[inode] ?? 0;
  }

  /** Number of hard links; for a directory 2 and its subdirectories. */
  linksOf(inode: number): number {
    return this.inodes.links[inode] ?? 0;
  }

  /** The size of a file, holes included, or of the target of a symbolic link, in bytes; otherwise 0. */
  sizeOf(inode: number): number {
    return this.inodes.size[inode] ?? 0;
  }

  mtimeOf(inode: number): Timespec {
    return this.inodes.time(inode);
  }

  /** The number of a device, as `makeDevice` returns it and EROFS stores it; 0 for other types. */
  deviceOf(inode: number): number {
    const type = this.typeOf(inode);
    return type === S_IFCHR || type === S_IFBLK ? (this.inodes.place[inode] ?? 0) : 0;
  }

  /** The target of a symbolic link, without a NUL. @throws Error if it is none */
  targetOf(inode: number): Buffer {
    if (this.typeOf(inode) !== S_IFLNK) throw new Error('the target of an inode that is no symbolic link');
    return this.entries.stored(this.inodes.place[inode] ?? 0, this.sizeOf(inode));
  }

  /** The offset in the tar of the content of a regular file. @returns -1 if it has holes: `extentsOf` tells where its data are */
  startOf(inode: number): number {
    return this.files.start(inode);
  }

  /** The parts of a regular file that have data, ascending. The rest of its size are holes. */
  extentsOf(inode: number): readonly Extent[] {
    return this.files.extents(inode);
  }

  /** Extended attributes by full name (bytes as latin1), access control lists included. */
  xattrsOf(inode: number): ReadonlyMap<string, Buffer> {
    return this.attributes.of(inode);
  }
}
