import { randomBytes } from 'node:crypto';
import {
  type BigIntStats,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  renameSync,
} from 'node:fs';
import { type FileHandle, lstat, mkdir, mkdtemp, open, rename, rmdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { errnoOf, freeingText } from '../errno.ts';
import { toUnpackError, UnpackError } from '../errors.ts';
import { tryLock } from '../system/files.ts';
import { spaceOf } from '../system/space.ts';
import type { OnRollback } from './database.ts';
import { ownerOf } from './records.ts';
import type { Snapshotter } from './snapshotter.ts';
import { hasVanished, syncDirectory, undefinedIfVanished } from './tree.ts';

/** The parent directory of all snapshot directories of the store at `root`. */
export const snapshotsDirectory = (root: string): string => join(root, 'snapshots');

/** A locked directory that is being filled and belongs to no snapshot yet. */
export interface Staged {
  readonly path: string;
  readonly handle: FileHandle;
}

/** Deletes `rm-…` directories in the background. A failed deletion leaves the directory for the next cleanup. */
export interface Deleter {
  /** For a directory that no snapshot has used. */
  start(path: string): void;
  /** For the directories of snapshots: one that somebody has mounted stays. */
  startUnlessMounted(...paths: string[]): void;
}

const LATER: Deleter = { start() {}, startUnlessMounted() {} };
const NEW = 'new-';
const GONE = 'rm-';
const BIG = { bigint: true } as const;
const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** Maximum attempts to make a directory that no cleanup of another process removes before it is locked. */
const STAGE_ATTEMPTS = 10;

/**
 * The directories below ROOT/snapshots, used by SnapshotStore. The name of a directory tells its owner:
 *
 *     ID       the snapshot whose row has this number. Without such a row: left by a crash, if the store's mark is in it and
 *              the database once had such a row, or it was never committed
 *     new-…    being filled. Its maker holds an flock(2) on it, which a `cp` process shares, and renames the directory to
 *              ID inside the transaction that inserts the row
 *     rm-…     being deleted
 *
 * A cleanup is safe while other processes use the store:
 *
 * - `ID` without a row: the cleanup reads the rows while it holds the metadata's write lock. A maker renames and commits
 *   under the same lock, so the cleanup never sees the state between the two.
 * - `new-…`: the kernel releases the lock when its holder dies. A cleanup that gets the lock therefore knows that the
 *   directory has no maker. The age would be a guess, because copying a large parent takes minutes. A process ID would
 *   mean nothing in another container. One gap remains: a maker has created its directory and has not locked it yet. If
 *   the cleanup gets the lock first, the maker notices (no lock, or no directory of that name) and makes another one.
 * - `rm-…`: any process may delete it, also several at once, but only while nobody has it mounted: see Deletions.
 *
 * Nothing else in ROOT/snapshots is ever renamed or deleted. All changes of a directory with a number go through an open
 * descriptor of ROOT/snapshots, so they cannot touch what somebody mounts over it at the same moment.
 */
export class SnapshotDirectories {
  readonly #parent: string;
  /** The same directory, through its descriptor. */
  readonly #own: string;
  readonly #deletions: Deleter;

  /**
   * @param descriptor an open descriptor of ROOT/snapshots
   * @param deletions default: what is removed waits for the next cleanup
   */
  constructor(root: string, descriptor: number, deletions: Deleter = LATER) {
    this.#deletions = deletions;
    this.#parent = snapshotsDirectory(root);
    this.#own = `/proc/self/fd/${descriptor}`;
  }

  /** The directory of a snapshot, for mounts, messages and other processes. */
  path(id: number): string {
    return join(this.#parent, String(id));
  }

  /** The snapshot's tree, for mounts and other processes. */
  tree(id: number): string {
    return join(this.path(id), 'fs');
  }

  /** The work directory that overlayfs needs for an active snapshot, for mounts. */
  work(id: number): string {
    return join(this.path(id), 'work');
  }

  /**
   * The directory of a snapshot, or a name in it, for this process to read and to write: also if another store is mounted
   * over this one after the check of a transaction.
   */
  own(id: number, name: 'fs' | 'work' | '' = ''): string {
    return join(this.#own, String(id), name);
  }

  /**
   * Makes an empty, locked directory. Call `release` in any case, after `place` if the directory is needed.
   * @throws system errors; UnpackError STORE_FAILED
   */
  async stage(): Promise<Staged> {
    for (let attempt = 0; attempt < STAGE_ATTEMPTS; attempt += 1) {
      const path = await this.#makeNew();
      let handle: FileHandle | undefined;
      try {
        handle = await open(path, DIRECTORY).catch(undefinedIfVanished);
        if (handle !== undefined && tryLock(handle.fd) && (await isAt(handle, path))) return { path, handle };
        await handle?.close();
      } catch (error) {
        await rmdir(path).catch(() => {});
        await handle?.close();
        throw error;
      }
    }
    throw new UnpackError(
      'STORE_FAILED',
      `every new directory in ${this.#parent} disappears: find the program that removes it`,
    );
  }

  async #makeNew(): Promise<string> {
    try {
      return await mkdtemp(join(this.#parent, NEW));
    } catch (error) {
      if (hasVanished(error)) throw storeGone(this.#parent, error);
      throw error;
    }
  }

  /**
   * Renames a staged directory to `id`. Call it inside the transaction that inserts the row.
   * @param isLeft whether a crash left the directory that has this number already
   * @throws UnpackError STORE_FAILED if another directory has this number
   */
  place(staged: Staged, id: number, isLeft: (path: string) => boolean, onRollback: OnRollback): void {
    const path = this.#through(String(id));
    const from = this.#through(basename(staged.path));
    try {
      renameSync(from, path);
    } catch (error) {
      if (!isOccupied(error)) throw error;
      // Another maker may have died between this rename and its commit, so SQLite gave the same number again.
      if (!isLeft(path)) throw occupied(this.path(id), error);
      this.#deletions.startUnlessMounted(this.#markGone(String(id)));
      renameSync(from, path);
    }
    onRollback(() => {
      if (isSame(fstatSync(staged.handle.fd, BIG), lstatSync(path, BIG))) renameSync(path, from);
    });
  }

  /** Unlocks a staged directory. Deletes it if it was not placed; if that fails, the next cleanup deletes it. */
  async release(staged: Staged): Promise<void> {
    try {
      const gone = this.#goneName(staged.path);
      await rename(this.#through(basename(staged.path)), gone);
      this.#deletions.start(gone);
    } catch {
      // it was placed; or the disk has failed, and the caller already has the first error
    } finally {
      await staged.handle.close();
    }
  }

  /**
   * Renames the directory of a removed or replaced snapshot to `rm-…` and starts to delete it. Does not wait for the deletion.
   * A directory without the mark of this store stays. A directory that is mounted is renamed, and a later cleanup deletes it.
   * @param isEmpty whether it is the directory of a view, in which nothing can be mounted
   */
  async remove(id: number, identity: string, isEmpty = false): Promise<void> {
    const own = this.#through(String(id));
    if (ownerOf(own) !== identity) return;
    const gone = this.#goneName(String(id));
    // The row is already deleted, so a cleanup of another process may have moved the directory first.
    const renamed = await rename(own, gone).then(() => true, undefinedIfVanished);
    if (!renamed) return;
    if (isEmpty) this.#deletions.start(gone);
    else this.#deletions.startUnlessMounted(gone);
  }

  /** Starts to delete the `rm-…` directories that other processes or an earlier time have left. */
  deleteGone(): void {
    const gone = this.#names().filter((name) => name.startsWith(GONE));
    this.#deletions.startUnlessMounted(...gone.map((name) => this.#through(name)));
  }

  /** Flushes the names of all placed directories to the disk. */
  async syncNames(): Promise<void> {
    await syncDirectory(this.#own);
  }

  /** The numbers of all `ID` directories. */
  present(): Set<number> {
    return new Set(this.#names().filter(isNumber).map(Number));
  }

  /**
   * Renames every directory that a crash left to `rm-…`. Call it with the metadata's write lock held.
   * @param isLeft whether a crash left the directory `path` with this number
   * @returns the new paths, and those of earlier `rm-…` directories
   */
  takeStrays(isLeft: (id: number, path: string) => boolean): string[] {
    const strays: string[] = [];
    for (const name of this.#names()) {
      const path = this.#through(name);
      if (name.startsWith(GONE)) strays.push(path);
      else if (name.startsWith(NEW) || (isNumber(name) && isLeft(Number(name), path))) {
        strays.push(...this.#markGoneIfAbandoned(name));
      }
    }
    // errors of their removal name these paths, so they must mean something to the operator
    return strays.map((path) => join(this.#parent, basename(path)));
  }

  #names(): string[] {
    return readdirSync(this.#own, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  }

  #goneName(name: string): string {
    return this.#through(`${GONE}${basename(name)}-${randomBytes(4).toString('hex')}`);
  }

  /** The path of a name in the directory that this process opened. */
  #through(name: string): string {
    return `${this.#own}/${name}`;
  }

  #markGone(name: string): string {
    const gone = this.#goneName(name);
    renameSync(this.#through(name), gone);
    return gone;
  }

  /**
   * Holds the lock until the directory has its new name, so that a maker that is about to lock it notices. The directory
   * may also have disappeared: `remove` renames it after its transaction.
   */
  #markGoneIfAbandoned(name: string): string[] {
    let descriptor: number | undefined;
    try {
      descriptor = openSync(this.#through(name), DIRECTORY);
      return tryLock(descriptor) ? [this.#markGone(name)] : [];
    } catch (error) {
      if (hasVanished(error)) return [];
      throw error;
    } finally {
      if (descriptor !== undefined) closeSync(descriptor);
    }
  }
}

/** Whether a name in ROOT/snapshots is the number of a snapshot. */
export function isNumber(name: string): boolean {
  return /^[1-9]\d*$/.test(name);
}

/** Whether the open directory still has that name. */
async function isAt(handle: FileHandle, path: string): Promise<boolean> {
  const there = await lstat(path, BIG).catch(undefinedIfVanished);
  return there !== undefined && isSame(await handle.stat(BIG), there);
}

/** Whether two results of stat are of one file. Compare only those of one process: device numbers change at a restart. */
export function isSame(one: BigIntStats, other: BigIntStats): boolean {
  return one.ino === other.ino && one.dev === other.dev;
}

function isOccupied(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno === 'ENOTEMPTY' || errno === 'EEXIST';
}

function occupied(path: string, cause: unknown): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `${path} belongs to no snapshot in the database, which may be an older copy: stop the workers and run unpackd snapshots recover`,
    { cause },
  );
}

/** Makes a directory beside ROOT/snapshots. @throws UnpackError STORE_FAILED if the store has disappeared; system errors */
export async function makeBesideSnapshots(root: string, name: string): Promise<void> {
  await mkdir(join(root, name), { mode: 0o700 }).catch((error: unknown) => {
    if (hasVanished(error)) throw storeGone(root, error);
    if (errnoOf(error) !== 'EEXIST') throw error;
  });
}

/** The error for a store that was open and whose directory has disappeared. */
export function storeGone(path: string, cause: unknown): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `${path} is not there any more; is its disk not mounted? Mount it, or restore the store, and restart unpackd`,
    { cause },
  );
}

/**
 * Converts an error of writing below `path` to an UnpackError. STORE_FAILED and STORE_FULL get the path in their message.
 * STORE_FULL also gets the free space of this moment, because the removal of the failed layer makes room again, and the commands
 * that free space in the store.
 * @param collectedBy as in Snapshotter, of the store to which `path` belongs
 */
export function failureAt(thrown: unknown, path: string, collectedBy: Snapshotter['collectedBy']): UnpackError {
  const failure = toUnpackError(thrown);
  if (failure.code === 'STORE_FULL') {
    return failure.with({}, `${path} (${free(path)} free): `, freeingText(collectedBy));
  }
  // without the snapshot directory, opening it fails with ENOENT, and so does every entry
  if (['LAYER_CORRUPT', 'INTERNAL'].includes(failure.code) && !existsSync(path)) return storeGone(path, thrown);
  if (failure.code === 'STORE_FAILED') return failure.with({}, `${path}: `);
  return failure;
}

function free(path: string): string {
  try {
    const { bytes, inodes } = spaceOf(path);
    return `${bytes} bytes${inodes === undefined ? '' : ` and ${inodes} inodes`}`;
  } catch {
    return 'an unknown amount';
  }
}
