import { randomBytes } from 'node:crypto';
import { mkdtemp, open, rmdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { diffTarget } from '../diff/target.ts';
import { errnoOf } from '../errno.ts';
import { toUnpackError, UnpackError } from '../errors.ts';
import { type ChainId, digestOf } from '../oci/digest.ts';
import { snapshotsDirectory } from '../snapshots/directories.ts';
import type { Snapshotter } from '../snapshots/snapshotter.ts';
import { ChainLocks } from './chain-locks.ts';
import { extractionKey } from './extraction-key.ts';
import { inPlace } from './in-place.ts';
import type { Log } from './log.ts';
import { removeOrphans } from './orphans.ts';

/** What a store must have room for, in bytes. Less is a full disk, on which small layers fail too. */
const ROOM = 1 << 20;
/** Milliseconds that the leftovers of a failed layer are waited for; a large one may take longer to be deleted. */
const TIDY_LIMIT = 30_000;
/** Milliseconds that a disk may take for all of the probe. One that takes longer for a megabyte is of no use. */
const PROBE_LIMIT = 10_000;

/**
 * Tells whether a failure of the store is the machine's fault or the layer's: is a layer of one file written, as any other
 * layer is, into a snapshot of its own that is removed again?
 *
 * A disk can hang and not fail: then there is an answer after a time limit, and no second probe is begun before the first
 * has come to its end, since each of them may keep a thread.
 */
export class StoreProbe {
  readonly #snapshotter: Snapshotter;
  readonly #locks: ChainLocks;
  /** A layer that nobody else can want: a cleanup of another process must see that it is being worked on. */
  readonly #chainId = digestOf(randomBytes(32)) as string as ChainId;
  #tidying: Promise<unknown> | undefined;
  #probing: Promise<unknown> | undefined;

  constructor(snapshotter: Snapshotter) {
    this.#snapshotter = snapshotter;
    this.#locks = new ChainLocks(snapshotter.root);
  }

  /** Removes what failed layers have left, as long as that takes less than half a minute. */
  async tidy(log?: Log): Promise<void> {
    this.#tidying ??= removeOrphans(this.#snapshotter, log)
      // what can't be removed is no reason to write nothing; if it is, the probe tells
      .catch((error: unknown) => log?.('warn', `not all leftovers can be removed: ${toUnpackError(error).message}`))
      .finally(() => {
        this.#tidying = undefined;
      });
    await Promise.race([this.#tidying, sleep(TIDY_LIMIT, undefined, { ref: false })]);
  }

  /** @throws UnpackError STORE_FULL, STORE_FAILED: the store can't be written now */
  async check(log?: Log): Promise<void> {
    this.#probing ??= this.#probe().finally(() => {
      this.#probing = undefined;
    });
    const probing = this.#probing;
    const late = sleep(PROBE_LIMIT, undefined, { ref: false }).then(() => {
      throw new UnpackError(
        'STORE_FAILED',
        `the store ${this.#snapshotter.root}: a file of ${ROOM} bytes could not be written within ${PROBE_LIMIT / 1000} s: the disk hangs, see what the kernel logs (dmesg)`,
      );
    });
    late.catch(() => {});
    probing.catch(() => {});
    try {
      await Promise.race([probing, late]);
    } catch (error) {
      const failure = toUnpackError(error);
      // the store was closed meanwhile, or this is a mistake of ours: neither says anything about the disk
      if (failure.code === 'STORE_FULL' || failure.code === 'STORE_FAILED') throw failure;
      log?.('warn', `the store could not be probed: ${failure.message}`);
    }
  }

  async #probe(): Promise<void> {
    const snapshotter = this.#snapshotter;
    // first what a disk that hangs keeps no thread for that others need; by its name the store's cleanup knows it
    const directory = await mkdtemp(join(snapshotsDirectory(snapshotter.root), 'new-'));
    await rmdir(directory).catch((error: unknown) => {
      if (errnoOf(error) !== 'ENOENT') throw error;
    });
    using lock = await this.#locks.tryAcquire(this.#chainId);
    if (lock === undefined) return;
    const key = extractionKey(this.#chainId);
    const mounts = await snapshotter.prepare(key, '');
    try {
      const { root } = diffTarget(mounts, 'nothing', snapshotter);
      await writeAndRemove(join(root, 'probe')).catch((error: unknown) => {
        throw inPlace(error, root);
      });
    } finally {
      await snapshotter.remove(key);
    }
  }
}

async function writeAndRemove(path: string): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    // random, because some file systems take next to nothing for zeros
    await file.writeFile(randomBytes(ROOM));
    await file.sync();
  } finally {
    await file.close();
    await unlink(path);
  }
}
