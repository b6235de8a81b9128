import { closeSync, constants, open } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { throwIfAborted } from '../errors.ts';
import { makeBesideSnapshots } from '../snapshots/directories.ts';
import { tryLock } from '../system/files.ts';

const DIRECTORY = 'locks';
/** Pause in milliseconds between two tries to get a lock. It doubles each time, from FIRST_PAUSE to LAST_PAUSE. */
const FIRST_PAUSE = 5;
const LAST_PAUSE = 200;
// not node:fs/promises: its file handles close asynchronously, but a lock must be released in the same turn
const openFile = promisify(open);
const FLAGS = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/**
 * Something that one process at a time does to a store: flock(2) on ROOT/locks/NAME. The kernel releases the lock of a dead
 * process. The file stays, so that all processes lock the same one.
 */
export class StoreLock {
  readonly #root: string;
  readonly #path: string;

  /** @param root the directory of the store's state */
  constructor(root: string, name: 'collector' | 'room') {
    this.#root = root;
    this.#path = join(root, DIRECTORY, name);
  }

  /**
   * The lock; `undefined` if another call holds it, in this process or another.
   * @throws UnpackError STORE_FAILED if the store has disappeared; system errors
   */
  async tryAcquire(): Promise<Disposable | undefined> {
    await makeBesideSnapshots(this.#root, DIRECTORY);
    const descriptor = await openFile(this.#path, FLAGS, 0o600);
    if (tryLock(descriptor)) return { [Symbol.dispose]: () => closeSync(descriptor) };
    closeSync(descriptor);
    return undefined;
  }

  /**
   * Waits for the lock.
   * @param onWait called once, if another call holds it
   * @throws the reason of the signal; UnpackError STORE_FAILED if the store has disappeared; system errors
   */
  async acquire(signal?: AbortSignal, onWait: () => void = () => {}): Promise<Disposable> {
    for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LAST_PAUSE)) {
      throwIfAborted(signal);
      const lock = await this.tryAcquire();
      if (lock !== undefined) return lock;
      if (pause === FIRST_PAUSE) onWait();
      await sleep(pause, undefined, signal === undefined ? {} : { signal }).catch(() => throwIfAborted(signal));
    }
  }
}
