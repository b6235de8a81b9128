import { showName } from '../archive/entry.ts';
import { toUnpackError } from '../errors.ts';
import { type FileStatus, S_IFDIR, S_IFMT, statFd, type Timespec, utimensAt } from '../system/files.ts';
import type { Checkpoint, MemoryBudget } from './layer-budget.ts';
import { leadsNowhere, type Place, type Root } from './root.ts';

/** What is budget of one directory. */
interface DirectoryTime {
  /** Clean, below the root; bytes as latin1. */
  readonly path: string;
  readonly atime: Timespec;
  readonly mtime: Timespec;
  /** Of a directory that no entry names. */
  readonly inode: bigint | undefined;
}

/** Numbers for each directory: seconds and nanoseconds of both times. */
const NUMBERS = 4;
/** Bytes of those and of the inode. */
const ROW = 8 * (NUMBERS + 1);

/**
 * The times that directories get once everything is written: those that are kept first, since a link may have given the
 * same directory those of another, then the others in the order in which they were last given. A layer may name millions
 * of directories, so a time is a row of numbers and no objects: a fifth of the memory.
 */
export class DirectoryTimes {
  private readonly rows = new Map<string, number>();
  /** Of directories that were named by a path through links. */
  private readonly realNames = new Set<string>();
  private numbers = new Float64Array(NUMBERS * 64);
  private inodes = new BigUint64Array(64);
  private hasKept = false;
  private readonly budget: MemoryBudget;

  constructor(budget: MemoryBudget) {
    this.budget = budget;
  }

  has(path: string): boolean {
    return this.rows.has(path);
  }

  /** @param inode of a directory that no entry names: only that one gets the times */
  set(path: string, atime: Timespec, mtime: Timespec, inode = 0n): void {
    const known = this.rows.get(path);
    const row = known ?? this.rows.size;
    if (known === undefined) {
      this.budget.charge(path, ROW);
      if (row === this.inodes.length) this.grow();
    } else {
      this.rows.delete(path); // what is given later is set later
    }
    this.rows.set(path, row);
    const at = row * NUMBERS;
    this.numbers[at] = atime.seconds;
    this.numbers[at + 1] = atime.nanoseconds;
    this.numbers[at + 2] = mtime.seconds;
    this.numbers[at + 3] = mtime.nanoseconds;
    this.inodes[row] = inode;
  }

  /** Says that an entry has named the directory at a real path, under whatever name: what it has then is not kept. */
  named(path: string): void {
    if (!this.realNames.has(path)) this.realNames.add(this.budget.charge(path));
  }

  /**
   * Keeps the times that an open directory of a full copy has, unless it has been given others: the layers below made it,
   * and writing into it must not leave today's time on it, as it would not in an overlay.
   * @param path its real path; the root's times are not kept
   */
  keep(fd: number, path: string): void {
    if (path === '' || this.rows.has(path) || this.realNames.has(path)) return;
    const { atime, mtime, inode } = statFd(fd);
    this.set(path, atime, mtime, inode);
    this.hasKept = true;
  }

  /**
   * Gives the directories their times, once everything is written.
   * @param named told the inode of each directory that an entry named
   * @throws UnpackError
   */
  apply(root: Root, checkpoint: Checkpoint, named: (inode: bigint) => void): void {
    for (const time of this.inOrder()) {
      checkpoint();
      try {
        setTimes(root, time, named);
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
    if (leadsNowhere(error)) return; // a later entry has put something else on the way to it
    throw error;
  }
  // Where a later entry has put something else, that gets the times of the directory that was named, and a link's
  // target in place of the link: containerd asks no more than whether the path leads anywhere.
  if (place === undefined || (inode !== undefined && !isDirectory(place.status, inode))) return;
  utimensAt(place.parent, place.name, atime, mtime);
  if (inode === undefined) named(place.status.inode);
}

/** The inode alone would not do: it may have been given to a file that took the directory's place. */
function isDirectory(status: FileStatus, inode: bigint): boolean {
  return status.inode === inode && (status.mode & S_IFMT) === S_IFDIR;
}
