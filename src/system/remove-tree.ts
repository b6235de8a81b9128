import { randomUUID } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { errnoOf, HOST_ERRNO, systemMessage } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { type Calls, callsHere, callsOnThreads, isCode, type SystemError } from './directory-calls.ts';
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
 * The one remover of directory trees. Every call is relative to an open directory and follows no link, so that a directory
 * which somebody exchanges for a link meanwhile leads nowhere else. What is mounted inside a tree is left alone: it is
 * another file system's, whose files nobody asked to remove.
 *
 * Directories that lie deeper than DEEPEST are moved up to the top of the tree first, so that few descriptors are open at
 * once and every call is short. Directories that are closed to their owner, as their layer asks, are opened first.
 */
const DEEPEST = 32;
/**
 * Tries to remove one name that others change meanwhile. Several removers of one deep tree need more than a few: each moves
 * directories up to where another has just removed everything.
 */
const ATTEMPTS = 100;
/** Trees that are removed at once, by one thread: each holds up to DEEPEST descriptors. */
const TREES = 4;
/**
 * Removes `path`, and all that it holds if it is a directory. That there is nothing is fine, and so is that several remove
 * the same tree at once. What can't be removed keeps nothing else: it is told at the end.
 * @throws UnpackError STORE_FAILED that names what can't be removed and why; system errors; the signal's reason, which
 *   leaves the rest
 */
export async function removeTree(path: string, signal?: AbortSignal): Promise<void> {
  await removeOnThreads(path, true, signal);
}

/** As `removeTree`, but the directory itself stays. */
export async function emptyTree(path: string, signal?: AbortSignal): Promise<void> {
  await removeOnThreads(path, false, signal);
}

/** As `removeTree`, in one call: for a process that ends, or a thread that has nothing else to do. */
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
 * Removes the directory `name` in the open directory `parent`, on this thread.
 * @param step is called between the steps, and may throw to give the removal up
 * @param gone is told the inode of every directory that goes
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

/** One removal, whichever thread its calls run on: a generator that yields what is to be waited for. */
class Removal {
  readonly #calls: Calls;
  readonly #place: string;
  readonly #gone: ((inode: bigint) => void) | undefined;
  /** Whether the first failure ends it. */
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

  /** `name` in `parent`, whatever it is. */
  whole(parent: number, name: Buffer): Generator<Promise<unknown>, void> {
    return this.#entry(parent, name, this.#place, 0);
  }

  /** All that the directory `name` in `parent` holds. */
  *inside(parent: number, name: Buffer): Generator<Promise<unknown>, void> {
    const fd = this.#open(parent, name, this.#place);
    if (fd === undefined) return;
    try {
      yield* this.#emptyTop(fd);
    } finally {
      close(fd);
    }
  }

  /** @throws the first of what could not be removed */
  report(): void {
    if (this.#failures > 0) throw this.#first;
  }

  /** @param known whether it is a directory, as the one that it is in tells */
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
          if (attempt < ATTEMPTS) continue; // it is no directory any more
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
      if (attempt < ATTEMPTS && isCode(error, 'EACCES') && opened(parent)) continue;
      // somebody has written into it, or put something else in its place
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
      // once more, as whatever it is now
      yield* this.#entry(fd, name, below(path, name), depth + 1);
    }
    for (const { name, isDirectory } of names) {
      if (isDirectory) yield* this.#entry(fd, name, below(path, name), depth + 1, true);
    }
  }

  /** `undefined` for what is no directory any more, and for what can't be opened, which is remembered. */
  #open(parent: number, name: Buffer, path: string): number | undefined {
    try {
      try {
        return openDirectoryHere(parent, name);
      } catch (error) {
        // root is never refused; for others a directory of their own that is closed to them is only opened
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

  /** Whether the directory lies at the top of the tree now, or is gone. Where it can't be moved it is removed in its place. */
  #moveUp(parent: number, name: Buffer): boolean {
    if (this.#top === undefined) return false;
    const up = cString(`deep-${randomUUID()}`);
    try {
      try {
        renameAt(parent, name, this.#top, up);
      } catch (error) {
        if (!isCode(error, 'EACCES')) throw error;
        // a directory that gets another parent is written to: it holds its `..`
        openUp(parent, name);
        renameAt(parent, name, this.#top, up);
      }
      this.#movedUp = true;
      return true;
    } catch (error) {
      return isCode(error, 'ENOENT');
    }
  }

  /** What is one name's own fault is told at the end. @throws what is the whole file system's */
  #failed(error: unknown, path: string): void {
    const told = this.#strict ? error : explained(error, path);
    if (this.#strict || !isCode(error, 'EPERM', 'EACCES', 'EBUSY', 'EXDEV', 'ENOTEMPTY', 'ENOTDIR', 'EISDIR'))
      throw told;
    if (this.#failures === 0) this.#first = told;
    this.#failures += 1;
  }
}

async function removeOnThreads(path: string, itself: boolean, signal: AbortSignal | undefined): Promise<void> {
  using _turn = await nextTurn();
  signal?.throwIfAborted();
  const removal = new Removal(callsOnThreads(signal), path);
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

/** The directory that `path` is in; `undefined` where there is none. */
function openParent(path: string): number | undefined {
  try {
    return openAt(AT_FDCWD, cString(dirname(path)), O.RDONLY | O.DIRECTORY);
  } catch (error) {
    if (isCode(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw error;
  }
}

/** Each of `TREES` turns is a promise of the one who has it. */
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
  // `as`: who drives the generator passes back what the promise resolved with
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
  if (steps.next().done !== true) throw new Error('a call of this thread must not be waited for');
}

function below(path: string, name: Buffer): string {
  return join(path, name.toString('utf8', 0, name.length - 1));
}

function isDirectory(parent: number, name: Buffer): boolean {
  return ((statAt(parent, name)?.mode ?? 0) & S_IFMT) === S_IFDIR;
}

/** Lets its owner into a directory. @throws system errors */
function openUp(parent: number, name: Buffer): void {
  const fd = openAt(parent, name, O.PATH | O.DIRECTORY | O.NOFOLLOW);
  try {
    chmodPathFd(fd, 0o700);
  } finally {
    close(fd);
  }
}

/** Whether the open directory could be made writable for its owner. */
function opened(directory: number): boolean {
  try {
    chmodFd(directory, 0o700);
    return true;
  } catch {
    return false;
  }
}

const BUSY = 'somebody still changes what is in it: look for them (fuser -v)';
const WHY: Readonly<Record<string, string>> = {
  EPERM: 'it, or the directory that it is in, is immutable or append-only (lsattr shows it, chattr -ia takes it off)',
  EACCES: 'this user may not write into the directory that it is in',
  EBUSY: 'something is mounted there, or a program uses it as a mount point (grep it in /proc/*/mountinfo): unmount it',
  EXDEV: 'something is mounted there, which is not removed: unmount it',
  ENOTEMPTY: BUSY,
  ENOTDIR: BUSY,
  EISDIR: BUSY,
};

/** The failure with the path that a person knows it by: node:fs names a descriptor. */
function explained(error: unknown, path: string): unknown {
  const code = errnoOf(error);
  if (code === undefined || !(error instanceof Error)) return error;
  const why = WHY[code] ?? `${systemMessage(error).split(', ')[0]}; ${HOST_ERRNO[code]?.advice ?? 'see dmesg'}`;
  return new UnpackError('STORE_FAILED', `${path} can't be removed: ${why}`, { cause: error });
}
