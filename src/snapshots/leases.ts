import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync, readdirSync, readFileSync, unlinkSync } from 'node:fs';
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UnpackError } from '../errors.ts';
import { tryLock, tryLockShared } from '../system/files.ts';
import { LOCK_TIMEOUT } from './database.ts';
import { makeBesideSnapshots } from './directories.ts';
import { asHolder, type Holder, holderOf, type Owner } from './holder.ts';
import type { Lease, Usage } from './snapshotter.ts';
import { hasVanished, undefinedIfVanished } from './tree.ts';

/** A lease that a living process holds. */
export interface HeldLease {
  /** `undefined`: the file cannot be read by this version. Such a lease is on every snapshot. */
  readonly names: ReadonlySet<string> | undefined;
  readonly holder: Holder | undefined;
  /** What the job still has to write. */
  readonly needs: Usage;
}

/** A lease with the hexadecimal ID in its file's name. */
export interface LeaseFile extends Lease {
  readonly id: string;
}

const DIRECTORY = 'leases';
const NEW = 'new-';
const HELD = 'lease-';
/** Size of the first line, which `update` replaces in one write. */
const NEEDS_BYTES = 64;
/** Maximum attempts to make a file that no `tidy` of another process removes before it is locked. */
const ATTEMPTS = 10;
/** Pause in milliseconds between two looks whether a removal has ended. It doubles each time. */
const FIRST_PAUSE = 1;
const LAST_PAUSE = 50;
const NOTHING: Usage = { bytes: 0, inodes: 0 };
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/**
 * Leases on committed snapshots: one file in ROOT/leases for each running job, with the names that it needs. Its holder has
 * an flock(2) on it, which the kernel releases when the process dies. So a file that is not locked is no lease.
 *
 *     new-…      a file that is being written and locked
 *     lease-…    a lease. The file is complete and locked before it gets this name
 *
 * A job takes its lease first and then looks which layers exist. A removal reads the leases, and may delete the row of a
 * snapshot after the job has already seen it. Therefore a removal holds an flock on ROOT from before it reads the leases until
 * its transaction is committed, and `take` waits until no removal holds that lock: each removal has either seen the new lease
 * or has ended.
 *
 * SnapshotStore and the store's thread take and read leases. Only files are used and no database, so any thread can do it.
 */
export class Leases {
  readonly #root: string;
  readonly #directory: string;
  /** Keeps the files of leases open. Node closes a file that nothing refers to. */
  readonly #taken = new Set<FileHandle>();

  /** @param root the directory of the store's state */
  constructor(root: string) {
    this.#root = root;
    this.#directory = join(root, DIRECTORY);
  }

  /** @throws UnpackError STORE_FAILED if the store is gone, or a removal of another process hangs; system errors */
  async take(names: readonly string[], owner: Owner, needs: Usage = NOTHING): Promise<LeaseFile> {
    await makeBesideSnapshots(this.#root, DIRECTORY);
    const content = `${needsLine(needs)}${JSON.stringify({ holder: holderOf(owner), names })}\n`;
    const { handle, path, id } = await this.#write(content);
    const taken = this.#taken;
    taken.add(handle);
    const lease: LeaseFile = {
      id,
      async update(changed) {
        await handle.write(needsLine(changed), 0);
      },
      async [Symbol.asyncDispose]() {
        // if the disk has failed, the file stays: without its lock it is no lease, and `tidy` removes it
        await unlink(path).catch(() => {});
        taken.delete(handle);
        await handle.close();
      },
    };
    try {
      using _none = await this.#lockRoot(tryLockShared);
      return lease;
    } catch (error) {
      await lease[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * Call it before the transaction of a removal, and end it after the commit. Removals of other processes wait.
   * @throws UnpackError STORE_FAILED if a removal of another process hangs
   */
  removing(): Promise<Disposable> {
    return this.#lockRoot(tryLock);
  }

  /** All leases of living processes. Synchronous, for use inside a transaction. @throws system errors */
  held(): HeldLease[] {
    return this.#files()
      .filter((name) => name.startsWith(HELD))
      .flatMap((name) => this.#ifLocked(join(this.#directory, name)) ?? []);
  }

  /** Whether a living process holds the lease with this ID. @throws system errors */
  isHeld(id: string): boolean {
    return withLock(join(this.#directory, `${HELD}${id}`), (isFree) => !isFree) ?? false;
  }

  /** Removes the files that dead processes left. @throws system errors */
  tidy(): void {
    for (const name of this.#files()) {
      if (!/^(new|lease)-[0-9a-f]+$/.test(name)) continue;
      const path = join(this.#directory, name);
      withLock(path, (isFree) => {
        if (isFree) unlinkSync(path);
      });
    }
  }

  async #write(content: string): Promise<{ readonly handle: FileHandle; readonly path: string; readonly id: string }> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const id = randomBytes(8).toString('hex');
      const next = join(this.#directory, `${NEW}${id}`);
      const path = join(this.#directory, `${HELD}${id}`);
      const handle = await open(next, 'wx', 0o600);
      try {
        if (tryLock(handle.fd)) {
          await handle.write(content, 0);
          if (await rename(next, path).then(() => true, undefinedIfVanished)) return { handle, path, id };
        }
        await handle.close();
      } catch (error) {
        await unlink(next).catch(() => {});
        await handle.close();
        throw error;
      }
    }
    throw new UnpackError(
      'STORE_FAILED',
      `every new file in ${this.#directory} disappears: find the program that removes it`,
    );
  }

  async #lockRoot(lock: (descriptor: number) => boolean): Promise<Disposable> {
    const descriptor = openSync(this.#root, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      const deadline = performance.now() + LOCK_TIMEOUT;
      for (let pause = FIRST_PAUSE; !lock(descriptor); pause = Math.min(pause * 2, LAST_PAUSE)) {
        if (performance.now() >= deadline) {
          throw new UnpackError(
            'STORE_FAILED',
            `another process removes a snapshot of ${this.#root} and has not finished for ${LOCK_TIMEOUT / 1000} s: look for one that hangs with the store open`,
          );
        }
        await sleep(pause);
      }
    } catch (error) {
      closeSync(descriptor);
      throw error;
    }
    return { [Symbol.dispose]: () => closeSync(descriptor) };
  }

  #files(): string[] {
    try {
      return readdirSync(this.#directory);
    } catch (error) {
      if (hasVanished(error)) return [];
      throw error;
    }
  }

  /** The lease in a file; `undefined` if nobody holds it. */
  #ifLocked(path: string): HeldLease | undefined {
    return withLock(path, (isFree, descriptor) => (isFree ? undefined : parse(readFileSync(descriptor, 'utf8'))));
  }
}

/**
 * Locks a file if nobody else has locked it, and calls `body` with whether it was free. Keeps the lock meanwhile.
 * @returns `undefined` if there is no such file
 */
function withLock<T>(path: string, body: (isFree: boolean, descriptor: number) => T): T | undefined {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, READ);
    // shared, so that two processes that look at the same time do not take each other for the holder
    return body(tryLockShared(descriptor), descriptor);
  } catch (error) {
    return undefinedIfVanished(error);
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

function needsLine({ bytes, inodes }: Usage): string {
  return `${JSON.stringify({ bytes, inodes }).padEnd(NEEDS_BYTES - 1)}\n`;
}

function parse(text: string): HeldLease {
  const { bytes, inodes }: Partial<Record<keyof Usage, unknown>> = object(text.slice(0, NEEDS_BYTES));
  const { holder, names }: { readonly holder?: unknown; readonly names?: unknown } = object(text.slice(NEEDS_BYTES));
  return {
    names: Array.isArray(names) ? new Set(names.filter((name) => typeof name === 'string')) : undefined,
    holder: asHolder(holder),
    needs: { bytes: typeof bytes === 'number' ? bytes : 0, inodes: typeof inodes === 'number' ? inodes : 0 },
  };
}

function object(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}
