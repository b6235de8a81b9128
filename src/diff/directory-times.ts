import { showName } from '../archive/entry.ts';
import { toUnpackError } from '../errors.ts';
import { type FileStatus, S_IFDIR, S_IFMT, type Timespec } from '../system/files.ts';
import type { Checkpoint, MemoryBudget } from './layer-budget.ts';
import { isMissingPath, type Place, type Root } from './root.ts';

/** The times to set on one directory. */
interface DirectoryTime {
  /** Clean path below the root; bytes as latin1. */
  readonly path: string;
  readonly atime: Timespec;
  readonly mtime: Timespec;
  /** Set for a directory without an entry. The times are set only if the path still leads to this inode. */
  readonly inode: bigint | undefined;
}

/** Numbers per directory: seconds and nanoseconds of both times. */
const NUMBERS = 4;
/** Number of bytes for these numbers and the inode. */
const ROW = 8 * (NUMBERS + 1);

/**
 * Collects the times of directories and sets them after the last entry, because every write into a directory changes
 * its times. Kept times (`keep`) are set first, because an entry whose path leads through a symbolic link can have
 * other times for the same directory. The times of entries follow, in the order of the last entry for each directory.
 *
 * A layer can have millions of directories. So the times are rows in typed arrays, which need a fifth of the memory of
 * objects.
 */
export class DirectoryTimes {
  private readonly rows = new Map<string, number>();
  /** Real paths of directories with an entry whose path leads through symbolic links. */
  private readonly realNames = new Set<string>();
  private numbers = new Float64Array(NUMBERS * 64);
  private inodes = new BigUint64Array(64);
  private hasKept = false;
  private readonly root: Root;
  private readonly budget: MemoryBudget;

  constructor(root: Root, budget: MemoryBudget) {
    this.root = root;
    this.budget = budget;
  }

  has(path: string): boolean {
    return this.rows.has(path);
  }

  /** @param inode set for a directory without an entry: the times are set only if the path still leads to this inode */
  set(path: string, atime: Timespec, mtime: Timespec, inode = 0n): void {
    const known = this.rows.get(path);
    const row = known ?? this.rows.size;
    if (known === undefined) {
      this.budget.charge(path, ROW);
      if (row === this.inodes.length) this.grow();
    } else {
      this.rows.delete(path); // the times of the last entry are set last
    }
    this.rows.set(path, row);
    const at = row * NUMBERS;
    this.numbers[at] = atime.seconds;
    this.numbers[at + 1] = atime.nanoseconds;
    this.numbers[at + 2] = mtime.seconds;
    this.numbers[at + 3] = mtime.nanoseconds;
    this.inodes[row] = inode;
  }

  /** The directory at this real path has an entry, possibly with another path. Its present times are not kept. */
  named(path: string): void {
    if (!this.realNames.has(path)) this.realNames.add(this.budget.charge(path));
  }

  /**
   * Keeps the present times of a directory in a full copy, unless the directory has an entry. In an overlay, a
   * directory of the layers below keeps its times when this layer writes into it, and a full copy must have the same
   * result.
   * @param path its real path; the root's times are not kept
   */
  keep(fd: number, path: string): void {
    if (path === '' || this.rows.has(path) || this.realNames.has(path)) return;
    const { atime, mtime, inode } = this.root.tree.statFd(fd);
    this.set(path, atime, mtime, inode);
    this.hasKept = true;
  }

  /**
   * Sets the times, after the last entry.
   * @param named called with the inode of each directory that has an entry
   * @throws UnpackError
   */
  apply(checkpoint: Checkpoint, named: (inode: bigint) => void): void {
    for (const time of this.inOrder()) {
      checkpoint();
      try {
        setTimes(this.root, time, named);
      } catch (error) {
        const which = showName(Buffer.from(time.path, 'latin1'));
        throw toUnpackError(error).with({}, `the times of the directory ${which}: `);
      }
    }
  }

  private *inOrder(): Generator<DirectoryTime> {
    for (const kept of this.hasKept ? [true, false] : [false]) {
      for (const [path, row] of this.rows) {
        const inode = this.inodes[row] ?? 0n;
        if ((inode !== 0n) !== kept || (kept && this.realNames.has(path))) continue;
        const at = row * NUMBERS;
        yield { path, atime: this.time(at), mtime: this.time(at + 2), inode: kept ? inode : undefined };
      }
    }
  }

  private time(at: number): Timespec {
    return { seconds: this.numbers[at] ?? 0, nanoseconds: this.numbers[at + 1] ?? 0 };
  }

  private grow(): void {
    const numbers = new Float64Array(this.numbers.length * 2);
    numbers.set(this.numbers);
    this.numbers = numbers;
    const inodes = new BigUint64Array(this.inodes.length * 2);
    inodes.set(this.inodes);
    this.inodes = inodes;
  }
}

function setTimes(root: Root, { path, atime, mtime, inode }: DirectoryTime, named: (inode: bigint) => void): void {
  let place: Place | undefined;
  try {
    place = root.resolve(Buffer.from(path, 'latin1'));
  } catch (error) {
    if (isMissingPath(error)) return; // a later entry has replaced a directory on the path
    throw error;
  }
  // If a later entry has replaced the directory, the new file gets the directory's times. containerd does the same,
  // because it only checks that the path exists. Symbolic links are followed.
  if (place === undefined || (inode !== undefined && !isDirectory(place.status, inode))) return;
  root.tree.utimensAt(place.parent, place.name, atime, mtime);
  if (inode === undefined) named(place.status.inode);
}

/** Compares the type, too, because a file that replaced the directory can have the same inode number. */
function isDirectory(status: FileStatus, inode: bigint): boolean {
  return status.inode === inode && (status.mode & S_IFMT) === S_IFDIR;
}
