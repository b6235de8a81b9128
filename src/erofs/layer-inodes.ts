/** A piece of a file's content, as it lies in the tar. */
export interface Extent {
  /** Offset in the file, in bytes. */
  readonly position: number;
  /** In bytes. */
  readonly length: number;
  /** Offset in the tar, in bytes. */
  readonly offset: number;
}

/**
 * The files and directories of one layer, by number. The index of an EROFS image is written from it. The root has the
 * number 0. Numbers of files that no directory names any more may exist; they are not written.
 */
export interface LayerInodes {
  /** One more than the largest number. */
  readonly count: number;
  /** Type and permission bits, as in stat(2). */
  mode(inode: number): number;
  uid(inode: number): number;
  gid(inode: number): number;
  /** Modification time in seconds since 1970; negative before. */
  seconds(inode: number): number;
  nanoseconds(inode: number): number;
  /** Size of a regular file in bytes, holes included; of a symbolic link, the length of its target. */
  size(inode: number): number;
  /**
   * Offset in the tar of a regular file's content, if it is there in one piece that begins at a multiple of 512; 0 for an empty
   * file. -1: `extents` tells where it is.
   */
  contentOffset(inode: number): number;
  /** Major and minor number of a device. */
  device(inode: number): { readonly major: number; readonly minor: number };
  /** The target of a symbolic link. */
  target(inode: number): Buffer;
  /** Extended attributes by full name (bytes as latin1). */
  xattrs(inode: number): ReadonlyMap<string, Buffer> | undefined;
  /** The content of a regular file, in ascending order. What is between two extents, and after the last, is a hole. */
  extents(inode: number): readonly Extent[];
  /** The directory that contains this directory; the root contains itself. */
  parent(directory: number): number;
  /** Numbers of the entries of a directory, sorted by the bytes of their names, without `.` and `..`. */
  entries(directory: number): Int32Array;
  /** The file that an entry names. */
  inode(entry: number): number;
  /** Length of an entry's name in bytes. */
  nameLength(entry: number): number;
  /** Copies an entry's name. */
  copyName(entry: number, to: Buffer, at: number): void;
}
