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
import { type FileHandle, lstat, mkdtemp, open, rename, rmdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { toUnpackError, UnpackError } from '../errors.ts';
import { tryLock } from '../system/files.ts';
import { removeTree } from '../system/remove-tree.ts';
import { spaceOf } from '../system/space.ts';
import type { OnRollback } from './database.ts';
import { hasVanished, syncDirectory } from './tree.ts';

/** Where the directories of a store at `root` lie. */
export const snapshotsDirectory = (root: string): string => join(root, 'snapshots');

/** A directory that is being filled and that no snapshot owns yet. */
export interface Staged {
  readonly path: string;
  readonly handle: FileHandle;
}

const NEW = 'new-';
const GONE = 'rm-';
const KEEP = new Set(['lost+found']);
const BIG = { bigint: true } as const;
const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** How often a fresh directory may be lost to another process's cleanup before something else must be wrong. */
const STAGE_ATTEMPTS = 10;

/**
 * The directories below ROOT/snapshots. What they are called says whose they are:
 *
 *     ID       a snapshot's; ID is a number of the metadata, or nobody's (a crash came between two steps)
 *     new-…    being filled; its maker holds an flock(2) on it, shared with the copier that it may start, and renames it
 *              to ID inside the transaction that records it
 *     rm-…     being deleted
 *
 * Cleaning up while others work is safe, because a directory is only ever taken away when nobody can still want it:
 *
 * - `ID` without a row: looked at while holding the metadata's write lock. A maker renames to ID and commits under that
 *   same lock, and so is never seen in between.
 * - `new-…`: the lock on it dies with its maker, however that dies, and can't be held by a dead one; so who gets the lock
 *   knows that the directory is nobody's. Age would be a guess (copying a large parent takes minutes), a process number is
 *   worth nothing across containers. One gap is left: a maker has created its directory and not yet locked it. The
 *   cleaner may win then; the maker sees that (no lock, or no directory of that name any more) and makes another one.
 * - `rm-…`: anybody may delete it, several at once too.
 */
export class SnapshotDirectories {
  readonly #parent: string;
  readonly #deletions = new Set<Promise<void>>();
  readonly #stopDeleting = new AbortController();

  constructor(root: string) {
    this.#parent = snapshotsDirectory(root);
  }

  path(id: number): string {
    return join(this.#parent, String(id));
  }

  /** The snapshot's tree. */
  tree(id: number): string {
    return join(this.path(id), 'fs');
  }

  /** What overlayfs needs beside the tree of an active snapshot. */
  work(id: number): string {
    return join(this.path(id), 'work');
  }

  /**
   * Makes an empty directory that `place` or `discard` ends.
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
    throw new UnpackError('STORE_FAILED', `no new directory stays in ${this.#parent}: look for what removes it`);
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
   * Gives a staged directory to the snapshot `id`. Call it inside the transaction that records the snapshot, and
   * `release` after it.
   */
  place(staged: Staged, id: number, onRollback: OnRollback): void {
    const path = this.path(id);
    try {
      renameSync(staged.path, path);
    } catch (error) {
      if (!isOccupied(error)) throw error;
      // A maker died between this rename and its commit, so that the number is given out once more.
      this.#delete(this.#markGone(String(id)));
      renameSync(staged.path, path);
    }
    onRollback(() => {
      if (isSame(fstatSync(staged.handle.fd, BIG), lstatSync(path, BIG))) renameSync(path, staged.path);
    });
  }

  /** Ends the claim on a staged directory; one that no snapshot got is deleted, by the next cleanup if not now. */
  async release(staged: Staged): Promise<void> {
    try {
      const gone = this.#goneName(staged.path);
      await rename(staged.path, gone);
      this.#delete(gone);
    } catch {
      // it has its place now; or the disk has failed, and what it failed with first is what counts
    } finally {
      await staged.handle.close();
    }
  }

  /** Takes the directory of a snapshot that is no more out of the way; its deletion goes on after that. */
  async remove(id: number): Promise<void> {
    const gone = this.#goneName(String(id));
    // Another process's cleanup may have been faster: the row is gone already.
    const renamed = await rename(this.path(id), gone).then(() => true, undefinedIfVanished);
    if (renamed) this.#delete(gone);
  }

  /** Makes the names of everything that was placed before survive a loss of power. */
  async syncNames(): Promise<void> {
    await syncDirectory(this.#parent);
  }

  /** The numbers that have a directory. */
  present(): Set<number> {
    return new Set(this.#names().filter(isNumber).map(Number));
  }

  /**
   * Takes every directory out of the way that is nobody's, and returns their paths; `owned` says which numbers are
   * somebody's. Call it with the metadata's write lock held.
   */
  takeStrays(owned: (id: number) => boolean): string[] {
    const strays: string[] = [];
    for (const name of this.#names()) {
      if (KEEP.has(name) || (isNumber(name) && owned(Number(name)))) continue;
      if (name.startsWith(GONE)) strays.push(join(this.#parent, name));
      else strays.push(...this.#markGoneIfAbandoned(name));
    }
    return strays;
  }

  /** Ends when every deletion that this object has begun has ended; a failed one leaves an `rm-…` for the next cleanup. */
  async settled(): Promise<void> {
    await Promise.all(this.#deletions);
  }

  /** As `settled`, but gives up after `limit` milliseconds. */
  async close(limit: number): Promise<void> {
    const timer = setTimeout(() => this.#stopDeleting.abort(), limit);
    await this.settled();
    clearTimeout(timer);
  }

  #names(): string[] {
    return readdirSync(this.#parent, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  }

  #goneName(name: string): string {
    return join(this.#parent, `${GONE}${basename(name)}-${randomBytes(4).toString('hex')}`);
  }

  #markGone(name: string): string {
    const gone = this.#goneName(name);
    renameSync(join(this.#parent, name), gone);
    return gone;
  }

  /**
   * The lock is held until the directory has its new name, so that a maker that comes late notices. It may also have gone
   * meanwhile: whoever removes a snapshot renames its directory after the transaction.
   */
  #markGoneIfAbandoned(name: string): string[] {
    let descriptor: number | undefined;
    try {
      descriptor = openSync(join(this.#parent, name), DIRECTORY);
      return tryLock(descriptor) ? [this.#markGone(name)] : [];
    } catch (error) {
      if (hasVanished(error)) return [];
      throw error;
    } finally {
      if (descriptor !== undefined) closeSync(descriptor);
    }
  }

  #delete(path: string): void {
    const deletion = removeTree(path, this.#stopDeleting.signal)
      .catch(() => {})
      .finally(() => this.#deletions.delete(deletion));
    this.#deletions.add(deletion);
  }
}

function isNumber(name: string): boolean {
  return /^[1-9]\d*$/.test(name);
}

/** Whether the open directory still has that name. */
async function isAt(handle: FileHandle, path: string): Promise<boolean> {
  const there = await lstat(path, BIG).catch(undefinedIfVanished);
  return there !== undefined && isSame(await handle.stat(BIG), there);
}

function isSame(one: BigIntStats, other: BigIntStats): boolean {
  return one.ino === other.ino && one.dev === other.dev;
}

function isOccupied(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOTEMPTY' || error.code === 'EEXIST');
}

function undefinedIfVanished(error: unknown): undefined {
  if (!hasVanished(error)) throw error;
}

/** The error for a store that was open and whose directory has disappeared. */
export function storeGone(path: string, cause: unknown): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `${path} is not there any more; is its disk not mounted? Mount it, or restore the store, and restart the worker`,
    { cause },
  );
}

/**
 * Converts an error of writing below `path` to an UnpackError. STORE_FAILED and STORE_FULL get the path in their message.
 * STORE_FULL also gets the free space of this moment, because the removal of the failed layer makes room again.
 */
export function failureAt(thrown: unknown, path: string): UnpackError {
  const failure = toUnpackError(thrown);
  if (failure.code === 'STORE_FULL') return failure.with({}, `${path} (${free(path)} free): `);
  // if the snapshot directory was removed, every entry fails with ENOENT
  if (failure.code === 'LAYER_CORRUPT' && !existsSync(path)) return storeGone(path, thrown);
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
