import { open, readSync, write } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { errnoOf } from '../errno.ts';
import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import type { ChainId } from '../oci/digest.ts';
import { makeBesideSnapshots } from '../snapshots/directories.ts';
import type { Holder } from '../snapshots/holder.ts';
import { AT_FDCWD, close, cString, O, openAt, statAt, statFd, tryLock, unlinkAt } from '../system/files.ts';
import { holderText, type LockWait, LockWaits, parseHolder } from './lock-waits.ts';

const DIRECTORY = 'locks';
/** Pause in milliseconds between two tries to get a lock. It doubles each time, from FIRST_PAUSE to LAST_PAUSE. */
const FIRST_PAUSE = 5;
const LAST_PAUSE = 100;
/** Size of a lock file in bytes. */
const HOLDER_BYTES = 2048;
/** For opening a lock file. A link or a device in its place is refused. */
const OPEN_FLAGS = O.RDWR | O.NOFOLLOW | O.NONBLOCK;

// not node:fs/promises: its file handles close asynchronously, but a lock must be released in the same turn as its
// descriptor
const openFile = promisify(open);
const writeFile = promisify(write);

/**
 * Locks on chain IDs, so that all processes that share a store extract a layer at most once at a time: flock(2) on
 * `ROOT/locks/CHAIN`. After the wait, the layer is committed; or its extraction has failed, and the waiting call
 * extracts the layer.
 *
 * The kernel releases the locks of a dead process, so there is no lease that has to expire. A process that is stopped
 * (SIGSTOP) keeps its locks. Therefore the holder is written into the lock file, and waiting calls report it.
 *
 * Use one object for all calls of a process on one store: a lock that another object holds counts as another process's.
 * Deadlock is impossible: a job takes the locks of its chain from the top down, and each layer has one parent.
 */
export class ChainLocks {
  private readonly root: string;
  private readonly directory: string;
  /** The locks that this object holds, with their paths as keys. Each value is the waits of the holder. */
  private readonly held = new Map<string, LockWaits>();

  /** @param root the directory of the store's state */
  constructor(root: string) {
    this.root = root;
    this.directory = join(root, DIRECTORY);
  }

  /**
   * Waits for the lock.
   * @param waits records which process holds the lock during the wait
   * @throws UnpackError the signal's reason, if it is aborted during the wait; STORE_FAILED
   */
  async acquire(chainId: ChainId, signal?: AbortSignal, waits: LockWaits = new LockWaits()): Promise<Disposable> {
    throwIfAborted(signal);
    try {
      for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LAST_PAUSE)) {
        const lock = await this.tryAcquire(chainId, waits);
        if (lock !== undefined) return lock;
        waits.waits(chainId, this.blocking(chainId));
        try {
          await sleep(pause, undefined, signal === undefined ? {} : { signal });
        } catch (error) {
          throw signal === undefined ? error : abortError(signal);
        }
      }
    } finally {
      waits.waits(chainId, undefined);
    }
  }

  /** The lock, or `undefined` if somebody holds it. @throws UnpackError STORE_FAILED */
  async tryAcquire(chainId: ChainId, waits: LockWaits = new LockWaits()): Promise<Disposable | undefined> {
    await makeBesideSnapshots(this.root, DIRECTORY);
    const name = this.path(chainId);
    const path = cString(name);
    // asynchronous, because a disk that hangs must not block the event loop, which renews the locks on jobs
    const fd = await openFile(name, OPEN_FLAGS | O.CREAT, 0o600).catch((error: unknown) => {
      throw openError(name, error);
    });
    try {
      if (lockAt(path, fd)) {
        this.held.set(name, waits);
        await writeHolder(fd, waits);
        return {
          [Symbol.dispose]: () => {
            this.held.delete(name);
            try {
              unlinkAt(AT_FDCWD, path);
            } catch {
              // the disk has failed; a file without flock is no lock, and the next holder removes the file
            } finally {
              close(fd);
            }
          },
        };
      }
    } catch (error) {
      this.held.delete(name);
      close(fd);
      throw error;
    }
    close(fd);
    return undefined;
  }

  /**
   * Removes the lock files that nobody holds. A process that was killed leaves its file, and only the next holder of the
   * same lock would remove it.
   * @throws system errors
   */
  async tidy(): Promise<void> {
    const names = await readdir(this.directory).catch((error: unknown) => {
      if (errnoOf(error) !== 'ENOENT') throw error;
      return [];
    });
    for (const name of names) {
      if (!/^sha\d+-[0-9a-f]+$/.test(name)) continue;
      const path = cString(join(this.directory, name));
      let fd: number;
      try {
        fd = openAt(AT_FDCWD, path, OPEN_FLAGS);
      } catch {
        continue; // its holder has just removed it, or it is no file
      }
      try {
        if (lockAt(path, fd)) unlinkAt(AT_FDCWD, path);
      } finally {
        close(fd);
      }
    }
  }

  /** The other process that holds the lock now; `undefined` if there is none or this object holds it. */
  heldElsewhere(chainId: ChainId): LockWait | undefined {
    const name = this.path(chainId);
    if (this.held.has(name)) return undefined;
    let fd: number;
    try {
      fd = openAt(AT_FDCWD, cString(name), OPEN_FLAGS);
    } catch {
      // without a file there is no lock; `acquire` reports any other error
      return undefined;
    }
    try {
      return tryLock(fd) ? undefined : { chainId, holder: readHolder(fd) };
    } catch {
      return undefined;
    } finally {
      close(fd);
    }
  }

  /**
   * The other process that must release a held lock: the holder, or the process that blocks the holder in this process.
   */
  private blocking(chainId: ChainId): LockWait | undefined {
    const own = this.held.get(this.path(chainId));
    return own === undefined ? this.heldElsewhere(chainId) : own.blockedBy;
  }

  private path(chainId: ChainId): string {
    return join(this.directory, chainId.replace(':', '-'));
  }
}

/**
 * Takes the lock of an open lock file, without waiting. The previous holder has possibly removed the file; a lock on a
 * removed file excludes nobody.
 * @returns whether `fd` has the lock, and the file is still at `path`
 */
function lockAt(path: Buffer, fd: number): boolean {
  return tryLock(fd) && statAt(AT_FDCWD, path)?.inode === statFd(fd).inode;
}

/** Writes the holder into the lock file. */
async function writeHolder(fd: number, { owner }: LockWaits): Promise<void> {
  // padded to a fixed size, because a reader could read between a write and a truncation
  const text = Buffer.alloc(HOLDER_BYTES, ' ');
  text.write(holderText(owner));
  // ignored on a full disk, because the lock works without the text
  await writeFile(fd, text, 0, text.length, 0).catch(() => {});
}

/** An UnpackError if a directory, link or device is in the place of the lock file; any other error unchanged. */
function openError(path: string, error: unknown): unknown {
  const errno = errnoOf(error);
  if (errno !== 'EISDIR' && errno !== 'ELOOP' && errno !== 'ENXIO') return error;
  return new UnpackError('STORE_FAILED', `${path} is not a lock file (${errno}); check what it is, and remove it`, {
    cause: error,
  });
}

function readHolder(fd: number): Holder | undefined {
  const bytes = Buffer.alloc(HOLDER_BYTES);
  const length = readSync(fd, bytes, 0, bytes.length, 0);
  return parseHolder(bytes.toString('utf8', 0, length));
}
