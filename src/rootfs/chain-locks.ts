import { open, readSync, write } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { errnoOf } from '../errno.ts';
import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import type { ChainId } from '../oci/digest.ts';
import { storeGone } from '../snapshots/directories.ts';
import { AT_FDCWD, close, cString, O, openAt, statAt, statFd, tryLock, unlinkAt } from '../system/files.ts';
import { holderText, type LockHolder, type LockWait, LockWaits, parseHolder } from './lock-waits.ts';

/** Milliseconds between two tries; the longer a layer has been waited for, the less often. */
const FIRST_PAUSE = 5;
const LAST_PAUSE = 100;
/** Bytes of a lock's file that are read. */
const HOLDER_BYTES = 2048;

// node:fs/promises has no plain descriptors, and a lock's must be closed in the same turn in which the lock ends
const openFile = promisify(open);
const writeFile = promisify(write);

/** The locks that this process holds, by their paths, and for whom: what it waits for itself is another matter. */
const held = new Map<string, LockWaits>();

/**
 * At most one apply of a chain ID at a time, in all processes that share a store: an flock(2) on `ROOT/locks/CHAIN`.
 * Whoever waited finds the layer committed, or takes over where the one before has failed. The kernel ends the lock with
 * its process, so a dead worker holds nothing up and leaves no lease to run out. A process that was stopped and is not
 * dead keeps its locks: so the file says whose the lock is, for those who wait to tell.
 *
 * A job takes the locks of its chain from the top down, and a chain has one parent a layer: no two jobs can wait for
 * each other.
 */
export class ChainLocks {
  private readonly directory: string;

  /** @param root the store's directory */
  constructor(root: string) {
    this.directory = join(root, 'locks');
  }

  /**
   * @param waits is told while another process holds the lock
   * @throws the signal's reason as an UnpackError when it is aborted while another holds the lock
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

  /** The lock, or `undefined` while another has it. */
  async tryAcquire(chainId: ChainId, waits: LockWaits = new LockWaits()): Promise<Disposable | undefined> {
    await mkdir(this.directory, { mode: 0o700 }).catch((error: unknown) => {
      const errno = errnoOf(error);
      if (errno === 'ENOENT') throw storeGone(dirname(this.directory), error);
      if (errno !== 'EEXIST') throw error;
    });
    const name = this.path(chainId);
    const path = cString(name);
    // a disk that hangs must not stop the thread that renews the locks on jobs
    const fd = await openFile(name, O.RDWR | O.CREAT | O.NOFOLLOW | O.NONBLOCK, 0o600).catch((error: unknown) => {
      throw noLockFile(name, error);
    });
    try {
      // the one before removes the file with its lock; a lock on a removed file is no lock
      if (tryLock(fd) && statAt(AT_FDCWD, path)?.inode === statFd(fd).inode) {
        held.set(name, waits);
        await sign(fd, waits);
        return {
          [Symbol.dispose]() {
            held.delete(name);
            try {
              unlinkAt(AT_FDCWD, path);
            } catch {
              // the disk has failed meanwhile; the file alone locks nothing, and is the next holder's to remove
            } finally {
              close(fd);
            }
          },
        };
      }
    } catch (error) {
      held.delete(name);
      close(fd);
      throw error;
    }
    close(fd);
    return undefined;
  }

  /** Whether another process has the lock now, and which. The lock is not touched where this process has it. */
  heldElsewhere(chainId: ChainId): LockWait | undefined {
    const name = this.path(chainId);
    if (held.has(name)) return undefined;
    let fd: number;
    try {
      fd = openAt(AT_FDCWD, cString(name), O.RDWR | O.NOFOLLOW | O.NONBLOCK);
    } catch {
      // no file, no lock; and what else is wrong with it is told to who wants the lock
      return undefined;
    }
    try {
      return tryLock(fd) ? undefined : { chainId, holder: holderIn(fd) };
    } catch {
      return undefined;
    } finally {
      close(fd);
    }
  }

  /** Which other process keeps a lock that could not be had just now. */
  private blocking(chainId: ChainId): LockWait | undefined {
    const own = held.get(this.path(chainId));
    return own === undefined ? this.heldElsewhere(chainId) : own.blockedBy;
  }

  private path(chainId: ChainId): string {
    return join(this.directory, chainId.replace(':', '-'));
  }
}

/** Says in the lock's file whose it is. */
async function sign(fd: number, { owner }: LockWaits): Promise<void> {
  // padded, since a file that gets shorter in a step of its own could be read between the two
  const text = Buffer.alloc(HOLDER_BYTES, ' ');
  text.write(holderText(owner));
  // a full disk: the lock holds without it
  await writeFile(fd, text, 0, text.length, 0).catch(() => {});
}

/** What is in the place of a lock's file and is none, as an UnpackError; other errors as they are. */
function noLockFile(path: string, error: unknown): unknown {
  const errno = errnoOf(error);
  if (errno !== 'EISDIR' && errno !== 'ELOOP' && errno !== 'ENXIO') return error;
  return new UnpackError('STORE_FAILED', `${path} is no lock file (${errno}): see what it is, and remove it`, {
    cause: error,
  });
}

function holderIn(fd: number): LockHolder | undefined {
  const bytes = Buffer.alloc(HOLDER_BYTES);
  const length = readSync(fd, bytes, 0, bytes.length, 0);
  return parseHolder(bytes.toString('utf8', 0, length));
}
