import { randomBytes } from 'node:crypto';
import { constants, mkdtemp, open, rmdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type DiffTarget, diffTarget } from '../diff/target.ts';
import { toUnpackError, UnpackError } from '../errors.ts';
import { type ChainId, digestOf } from '../oci/digest.ts';
import { failureAt, snapshotsDirectory } from '../snapshots/directories.ts';
import { requireTreeOf } from '../snapshots/records.ts';
import type { Store } from '../snapshots/store.ts';
import { undefinedIfVanished } from '../snapshots/tree.ts';
import type { Log } from './applier.ts';
import type { ChainLocks } from './chain-locks.ts';
import { extractionKey, removeLeftovers } from './leftovers.ts';

/**
 * Number of bytes that the probe writes. A store without space for them is full, because even small layers fail there.
 */
const ROOM = 1 << 20;
/** Time limit in milliseconds for `tidy`. The removal of a large layer can continue after this time. */
const TIDY_LIMIT = 30_000;
/** Maximum milliseconds for the whole probe. A disk that needs longer for a megabyte is unusable. */
const PROBE_LIMIT = 10_000;

/**
 * Tests whether the store can be written, to tell a fault of the machine from a fault of the layer. The probe writes one
 * file into a snapshot of its own, as a layer is written, and removes both. `queue/store-guard.ts` calls it.
 *
 * If the disk hangs, the probe fails after a time limit. The next probe starts only after the last one has finished,
 * because each probe on a hanging disk blocks a thread.
 */
export class StoreProbe {
  readonly #store: Store;
  readonly #locks: ChainLocks;
  #tidying: Promise<unknown> | undefined;
  #probing: Promise<unknown> | undefined;

  constructor(store: Store, locks: ChainLocks) {
    this.#store = store;
    this.#locks = locks;
  }

  /** Removes what failed layers left behind; returns after half a minute at most. Errors are logged only. */
  async tidy(log?: Log): Promise<void> {
    this.#tidying ??= removeLeftovers(this.#store, log, this.#locks)
      // leftovers alone do not prevent writing; if the disk is the cause, the probe fails
      .catch((error: unknown) => log?.('warn', `not all leftovers can be removed: ${toUnpackError(error).message}`))
      .finally(() => {
        this.#tidying = undefined;
      });
    await Promise.race([this.#tidying, sleep(TIDY_LIMIT, undefined, { ref: false })]);
  }

  /** @throws UnpackError STORE_FULL, STORE_FAILED if the store cannot be written now */
  async check(log?: Log): Promise<void> {
    this.#probing ??= this.#probe().finally(() => {
      this.#probing = undefined;
    });
    const probing = this.#probing;
    const late = sleep(PROBE_LIMIT, undefined, { ref: false }).then(() => {
      throw new UnpackError(
        'STORE_FAILED',
        `the store ${this.#store.root}: a file of ${ROOM} bytes could not be written within ${PROBE_LIMIT / 1000} s: the disk hangs; see the kernel log (dmesg)`,
      );
    });
    late.catch(() => {});
    probing.catch(() => {});
    try {
      await Promise.race([probing, late]);
    } catch (error) {
      const failure = toUnpackError(error);
      // the store has been closed, or this is a bug; neither is a fault of the disk
      if (failure.code === 'STORE_FULL' || failure.code === 'STORE_FAILED') throw failure;
      log?.('warn', `the store could not be probed: ${failure.message}`);
    }
  }

  async #probe(): Promise<void> {
    const store = this.#store;
    const chainId = randomChainId();
    // the store checks first that no other disk was mounted over it
    await store.has(chainId);
    if (store.marked) await makeDirectory(store.root);
    using lock = await this.#locks.tryAcquire(chainId);
    // a cleanup of another process has just taken the new lock file for a leftover
    if (lock === undefined) return this.#probe();
    await using lease = await store.lease([], {});
    const snapshotter = store.under(lease);
    const key = extractionKey(store, chainId);
    const mounts = await snapshotter.prepare(key, '');
    try {
      const target = diffTarget(mounts, 'nothing', store, key);
      await writeAndRemove(target).catch((error: unknown) => {
        throw failureAt(error, target.root, target.collectedBy);
      });
    } finally {
      await snapshotter.remove(key);
    }
  }
}

/** The probe locks it, so that a cleanup in another process leaves its snapshot alone. */
function randomChainId(): ChainId {
  return digestOf(randomBytes(32)) as string as ChainId; // a chain ID is a digest too
}

/**
 * Makes a directory on libuv's pool and removes it: if the disk hangs here, the store's thread stays free for others. The
 * store's cleanup removes directories of this name.
 */
async function makeDirectory(root: string): Promise<void> {
  const directory = await mkdtemp(join(snapshotsDirectory(root), 'new-'));
  await rmdir(directory).catch(undefinedIfVanished);
}

/** Writes a file into the tree of a snapshot, and into no other that is mounted over it. */
async function writeAndRemove({ root, key }: DiffTarget): Promise<void> {
  const directory = await open(root, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    if (key !== undefined) requireTreeOf(key, directory.fd);
    const path = `/proc/self/fd/${directory.fd}/probe`;
    const file = await open(path, 'wx', 0o600);
    try {
      // random, because some file systems store zeros without allocating blocks
      await file.writeFile(randomBytes(ROOM));
      await file.sync();
    } finally {
      await file.close();
      await unlink(path);
    }
  } finally {
    await directory.close();
  }
}
