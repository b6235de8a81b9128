import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf } from '../errno.ts';
import { abortError, throwIfAborted } from '../errors.ts';
import type { ChainId } from '../oci/digest.ts';
import { storeGone } from '../snapshots/errors.ts';
import { AT_FDCWD, close, cString, O, openAt, statAt, statFd, tryLock, unlinkAt } from '../system/files.ts';

/** Milliseconds between two tries; the longer a layer has been waited for, the less often. */
const FIRST_PAUSE = 5;
const LAST_PAUSE = 100;

/**
 * At most one apply of a chain ID at a time, in all processes that share a store: an flock(2) on `ROOT/locks/CHAIN`.
 * Whoever waited finds the layer committed, or takes over where the one before has failed. The kernel ends the lock with
 * its process, so a dead worker holds nothing up and leaves no lease to run out.
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

  /** @throws the signal's reason as an UnpackError when it is aborted while another holds the lock */
  async acquire(chainId: ChainId, signal?: AbortSignal): Promise<Disposable> {
    throwIfAborted(signal);
    for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LAST_PAUSE)) {
      const lock = await this.tryAcquire(chainId);
      if (lock !== undefined) return lock;
      try {
        await sleep(pause, undefined, signal === undefined ? {} : { signal });
      } catch (error) {
        throw signal === undefined ? error : abortError(signal);
      }
    }
  }

  /** The lock, or `undefined` while another has it. */
  async tryAcquire(chainId: ChainId): Promise<Disposable | undefined> {
    await mkdir(this.directory, { mode: 0o700 }).catch((error: unknown) => {
      const errno = errnoOf(error);
      if (errno === 'ENOENT') throw storeGone(dirname(this.directory), error);
      if (errno !== 'EEXIST') throw error;
    });
    const path = cString(join(this.directory, chainId.replace(':', '-')));
    const fd = openAt(AT_FDCWD, path, O.RDWR | O.CREAT | O.NOFOLLOW, 0o600);
    try {
      // the one before removes the file with its lock; a lock on a removed file is no lock
      if (tryLock(fd) && statAt(AT_FDCWD, path)?.inode === statFd(fd).inode) {
        return {
          [Symbol.dispose]() {
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
      close(fd);
      throw error;
    }
    close(fd);
    return undefined;
  }
}
