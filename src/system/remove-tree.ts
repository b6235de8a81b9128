import { randomUUID } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { errnoOf, HOST_ERRNO, systemMessage } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { type Calls, callsHere, callsOnThreads, isCode, type Pace, type SystemError } from './directory-calls.ts';
import {
  AT_FDCWD,
  chmodFd,
  chmodPathFd,
  close,
  cString,
  O,
  openAt,
  openDirectoryHere,
  renameAt,
  S_IFDIR,
  S_IFMT,
  statAt,
  statFd,
} from './files.ts';

/**
 * Removes directory trees. All of unpackd uses these functions. Each call is relative to an open directory and does not
 * follow symbolic links. If another process replaces a directory by a link during the removal, nothing outside is
 * removed. Mounts inside a tree are not entered.
 *
 * A directory deeper than DEEPEST is first moved to the top of the tree, so that few descriptors are open and paths
 * stay short. A directory whose mode denies access to its owner gets mode 0700 first.
 */
const DEEPEST = 32;
/**
 * Maximum attempts to remove one name that other processes change at the same time. Several processes that remove one deep
 * tree need many: each moves directories to the top, which another has just emptied.
 */
const ATTEMPTS = 100;
/** Maximum number of trees that one thread removes at the same time. Each tree needs up to DEEPEST descriptors. */
const TREES = 4;
/**
 * Removes a file or a directory tree. Does nothing if `path` does not exist. Several processes can remove the same tree
 * at the same time. If a name cannot be removed, the others are removed before the error is thrown.
 * @param pace can delay each part of the removal
 * @throws UnpackError STORE_FAILED with the name and the reason; system errors; the signal's reason, which stops the removal
 */
export async function removeTree(path: string, signal?: AbortSignal, pace?: Pace): Promise<void> {
  await removeOnThreads(path, true, signal, pace);
}

/** Removes the content of a directory. Otherwise as `removeTree`. */
export async function emptyTree(path: string, signal?: AbortSignal): Promise<void> {
  await removeOnThreads(path, false, signal);
}

/** As `removeTree`, but synchronous: for a process that is exiting, or a thread without other work. */
export function removeTreeSync(path: string): void {
  const removal = new Removal(callsHere(), path);
  const parent = openParent(path);
  if (parent === undefined) return;
  try {
    sync(removal.whole(parent, cString(basename(path))));
  } finally {
    close(parent);
  }
  removal.report();
}

/**
 * Removes the directory `name` in the open directory `parent`. Synchronous; stops at the first error.
 * @param step is called before each system call, and can throw to stop @param gone is called with the inode of each
 * removed directory
 * @throws the first system error
 */
export function removeDirectoryAt(
  parent: number,
  name: Buffer,
  step: () => void,
  gone?: (inode: bigint) => void,
): void {
  const removal = new Removal(callsHere(step), name.toString('utf8', 0, name.length - 1), gone, true);
  sync(removal.whole(parent, name));
}

/** One removal, as a generator that yields the promises to wait for. With synchronous calls, it yields nothing. */
class Removal {
  readonly #calls: Calls;
  readonly #place: string;
  readonly #gone: ((inode: bigint) => void) | undefined;
  /** Whether the first error stops the removal. */
  readonly #strict: boolean;
  #top: number | undefined;
  #movedUp = false;
  #failures = 0;
  #first: unknown;

  constructor(calls: Calls, place: string, gone?: (inode: bigint) => void, strict = false) {
    this.#calls = calls;
    this.#place = place;
    this.#gone = gone;
    this.#strict = strict;
  }

  /** Removes the file or directory `name` in `parent`. */
  whole(parent: number, name: Buffer): Generator<Promise<unknown>, void> {
    return this.#entry(parent, name, this.#place, 0);
  }

  /** Removes the content of the directory `name` in `parent`. */
  *inside(parent: number, name: Buffer): Generator<Promise<unknown>, void> {
    const fd = this.#open(parent, name, this.#place);
    if (fd === undefined) return;
    try {
      yield* this.#emptyTop(fd);
    } finally {
      close(fd);
    }
  }

  /** @throws the error of the first name that could not be removed */
  report(): void {
    if (this.#failures > 0) throw this.#first;
  }

  /** @param known whether the listing of its parent shows it as a directory */
  *#entry(
    parent: number,
    name: Buffer,
    path: string,
    depth: number,
    known?: boolean,
  ): Generator<Promise<unknown>, void> {
    for (let attempt = 1; ; attempt += 1) {
      const failures = this.#failures;
      let inode: bigint | undefined;
      let error: SystemError | undefined;
      if (attempt === 1 && known !== undefined ? known : isDirectory(parent, name)) {
        if (depth >= DEEPEST && this.#moveUp(parent, name)) return;
        const fd = this.#open(parent, name, path);
        if (fd === undefined) {
          if (this.#failures > failures) return;
          if (attempt < ATTEMPTS) continue; // another process has replaced it
        } else {
          try {
            inode = statFd(fd).inode;
            yield* depth === 0 ? this.#emptyTop(fd) : this.#empty(fd, path, depth);
          } finally {
            close(fd);
          }
          if (this.#failures > failures) return;
        }
        [error] = yield* wait(this.#calls.rmdir(parent, name));
        if (error === undefined && inode !== undefined) this.#gone?.(inode);
      } else {
        [error] = yield* wait(this.#calls.unlink(parent, [name]));
      }
      if (error === undefined || isCode(error, 'ENOENT')) return;
      if (attempt < ATTEMPTS && isCode(error, 'EACCES') && openedUp(parent)) continue;
      // another process has written into the directory, or has replaced it
      if (attempt < ATTEMPTS && isCode(error, 'ENOTEMPTY', 'EEXIST', 'ENOTDIR', 'EISDIR')) continue;
      this.#failed(error, path);
      return;
    }
  }

  *#emptyTop(fd: number): Generator<Promise<unknown>, void> {
    const outermost = this.#top === undefined;
    this.#top ??= fd;
    do {
      this.#movedUp = false;
      yield* this.#empty(fd, this.#place, 0);
    } while (this.#movedUp);
    if (outermost) this.#top = undefined;
  }

  *#empty(fd: number, path: string, depth: number): Generator<Promise<unknown>, void> {
    const names = yield* wait(this.#calls.list(fd));
    const files = names.filter(({ isDirectory }) => !isDirectory).map(({ name }) => name);
    const errors = yield* wait(this.#calls.unlink(fd, files));
    for (const [index, error] of errors.entries()) {
      const name = files[index];
      if (name === undefined || error === undefined || isCode(error, 'ENOENT')) continue;
      // try again: another process has possibly replaced it
      yield* this.#entry(fd, name, below(path, name), depth + 1);
    }
    for (const { name, isDirectory } of names) {
      if (isDirectory) yield* this.#entry(fd, name, below(path, name), depth + 1, true);
    }
  }

  /** Opens a directory. @returns `undefined` if it is no directory any more, or if it failed, which `report` throws later */
  #open(parent: number, name: Buffer, path: string): number | undefined {
    try {
      try {
        return openDirectoryHere(parent, name);
      } catch (error) {
        // EACCES never happens to root; another user can change the mode of their own directory
        if (!isCode(error, 'EACCES')) throw error;
        openUp(parent, name);
        return openDirectoryHere(parent, name);
      }
    } catch (error) {
      if (isCode(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
      this.#failed(error, path);
      return undefined;
    }
  }

  /** Moves a directory to the top of the tree. @returns false if that fails; the directory is then removed where it is */
  #moveUp(parent: number, name: Buffer): boolean {
    if (this.#top === undefined) return false;
    const up = cString(`deep-${randomUUID()}`);
    try {
      try {
        renameAt(parent, name, this.#top, up);
      } catch (error) {
        if (!isCode(error, 'EACCES')) throw error;
        // a move changes the `..` of the directory, so it must be writable
        openUp(parent, name);
        renameAt(parent, name, this.#top, up);
      }
      this.#movedUp = true;
      return true;
    } catch (error) {
      return isCode(error, 'ENOENT');
    }
  }

  /** Records an error that concerns one name. @throws an error that concerns the whole file system */
  #failed(error: unknown, path: string): void {
    const told = this.#strict ? error : explained(error, path);
    if (this.#strict || !isCode(error, 'EPERM', 'EACCES', 'EBUSY', 'EXDEV', 'ENOTEMPTY', 'ENOTDIR', 'EISDIR'))
      throw told;
    if (this.#failures === 0) this.#first = told;
    this.#failures += 1;
  }
}

async function removeOnThreads(path: string, itself: boolean, signal?: AbortSignal, pace?: Pace): Promise<void> {
  using _turn = await nextTurn();
  signal?.throwIfAborted();
  const removal = new Removal(callsOnThreads(signal, pace), path);
  const parent = openParent(path);
  if (parent === undefined) return;
  try {
    const name = cString(basename(path));
    await drive(itself ? removal.whole(parent, name) : removal.inside(parent, name));
  } finally {
    close(parent);
  }
  removal.report();
}

/** Opens the parent directory of `path`; `undefined` if it does not exist. */
function openParent(path: string): number | undefined {
  try {
    return openAt(AT_FDCWD, cString(dirname(path)), O.RDONLY | O.DIRECTORY);
  } catch (error) {
    if (isCode(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw error;
  }
}

/**
 * Limits the trees that this thread removes at once. The limit is per thread, because it bounds the descriptors of all
 * removals. It holds nothing that must be closed. Each turn is a promise that settles after its removal has finished.
 */
const turns: Promise<void>[] = Array.from({ length: TREES }, () => Promise.resolve());
let turn = 0;

async function nextTurn(): Promise<Disposable> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const mine = turn;
  turn = (turn + 1) % TREES;
  const before = turns[mine];
  turns[mine] = promise;
  await before;
  return { [Symbol.dispose]: resolve };
}

function* wait<T>(value: T | Promise<T>): Generator<Promise<unknown>, T> {
  // `as`: `drive` passes the result of the promise back
  return value instanceof Promise ? ((yield value) as T) : value;
}

async function drive(steps: Generator<Promise<unknown>, void>): Promise<void> {
  try {
    for (let { done, value } = steps.next(); done !== true; { done, value } = steps.next(await value));
  } finally {
    steps.return();
  }
}

function sync(steps: Generator<Promise<unknown>, void>): void {
  if (steps.next().done !== true) throw new Error('a synchronous removal must not wait');
}

function below(path: string, name: Buffer): string {
  return join(path, name.toString('utf8', 0, name.length - 1));
}

function isDirectory(parent: number, name: Buffer): boolean {
  return ((statAt(parent, name)?.mode ?? 0) & S_IFMT) === S_IFDIR;
}

/** Gives a directory the mode 0700. @throws system errors */
function openUp(parent: number, name: Buffer): void {
  const fd = openAt(parent, name, O.PATH | O.DIRECTORY | O.NOFOLLOW);
  try {
    chmodPathFd(fd, 0o700);
  } finally {
    close(fd);
  }
}

/** Gives an open directory the mode 0700. @returns whether that succeeded */
function openedUp(directory: number): boolean {
  try {
    chmodFd(directory, 0o700);
    return true;
  } catch {
    return false;
  }
}

const BUSY = 'another process still changes its content: fuser -v shows which';
const WHY: Readonly<Record<string, string>> = {
  EPERM: 'it or its parent directory is immutable or append-only: lsattr shows the attribute, chattr -ia removes it',
  EACCES: 'this user has no permission to write into its parent directory',
  EBUSY: 'it is a mount point, perhaps in another mount namespace (grep it in /proc/*/mountinfo): unmount it',
  EXDEV: 'a file system is mounted there: unmount it',
  ENOTEMPTY: BUSY,
  ENOTDIR: BUSY,
  EISDIR: BUSY,
};

/** The error with the real path, because the errors of node:fs contain a path in /proc. */
function explained(error: unknown, path: string): unknown {
  const code = errnoOf(error);
  if (code === undefined || !(error instanceof Error)) return error;
  const why = WHY[code] ?? `${systemMessage(error).split(', ')[0]}; ${HOST_ERRNO[code]?.advice ?? 'see dmesg'}`;
  return new UnpackError('STORE_FAILED', `${path} can't be removed: ${why}`, { cause: error });
}
