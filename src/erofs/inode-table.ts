import type { Timespec } from '../system/files.ts';

/** Takes memory from the layer's limit, in bytes; a negative number gives it back. @throws UnpackError LIMIT_EXCEEDED */
export type Charge = (bytes: number) => void;

/** Bytes of one row. */
const ROW = 2 + 4 * 5 + 8 * 3;

/**
 * The inodes of a tree in memory: a row each, in typed arrays, because a layer can have millions. A row is never used again,
 * so that the number of an inode stays unique.
 */
export class InodeTable {
  /** Number of rows. The root is row 0. */
  count = 0;
  /** Type and permission bits. */
  mode = new Uint16Array(0);
  uid = new Uint32Array(0);
  gid = new Uint32Array(0);
  /** Number of hard links; for a directory 2 and its subdirectories. 0: it was removed. */
  links = new Uint32Array(0);
  /** Of a file, holes included, or of the target of a symbolic link, in bytes. */
  size = new Float64Array(0);
  seconds = new Float64Array(0);
  nanoseconds = new Uint32Array(0);
  /**
   * A file: the offset of its content in the tar (file-contents.ts). A symbolic link: the place of its target among the
   * names. A device: its number, as `makeDevice` returns it. A directory: its own entry, -1 for the root.
   */
  place = new Float64Array(0);
  /** A directory: its newest entry, -1 if it is empty. */
  first = new Int32Array(0);
  private readonly charge: Charge;

  constructor(charge: Charge) {
    this.charge = charge;
    this.grow(1024);
  }

  /** A new inode without links, with the times of 1970. @returns its row */
  add(mode: number, uid: number, gid: number): number {
    if (this.count === this.mode.length) this.grow(Math.ceil(this.count * 1.5));
    const row = this.count++;
    this.mode[row] = mode;
    this.uid[row] = uid;
    this.gid[row] = gid;
    this.first[row] = -1;
    return row;
  }

  setTime(row: number, { seconds, nanoseconds }: Timespec): void {
    this.seconds[row] = seconds;
    this.nanoseconds[row] = nanoseconds;
  }

  time(row: number): Timespec {
    return { seconds: this.seconds[row] ?? 0, nanoseconds: this.nanoseconds[row] ?? 0 };
  }

  private grow(rows: number): void {
    this.charge((rows - this.mode.length) * ROW);
    this.mode = larger(this.mode, new Uint16Array(rows));
    this.uid = larger(this.uid, new Uint32Array(rows));
    this.gid = larger(this.gid, new Uint32Array(rows));
    this.links = larger(this.links, new Uint32Array(rows));
    this.size = larger(this.size, new Float64Array(rows));
    this.seconds = larger(this.seconds, new Float64Array(rows));
    this.nanoseconds = larger(this.nanoseconds, new Uint32Array(rows));
    this.place = larger(this.place, new Float64Array(rows));
    this.first = larger(this.first, new Int32Array(rows));
  }
}

/** Copies a column into a larger array. @returns the larger array */
export function larger<T extends { set(from: T): void }>(column: T, into: T): T {
  into.set(column);
  return into;
}
