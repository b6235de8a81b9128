import { closeSync, constants, fsyncSync, lstatSync, openSync, readdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { errnoOf } from '../errno.ts';
import type { Usage } from './snapshotter.ts';

/**
 * Measures and flushes the directories of snapshots, for SnapshotStore. Names are bytes, because a layer may contain names
 * that are not UTF-8. A path may be longer than one system call takes (4,096 bytes), because layers are written relative to
 * open directories.
 */

/** A path of this length plus one name (255 bytes) is always short enough for a system call. */
const LONG_PATH = 2048;
/** How long one slice of a walk may block the event loop, in milliseconds. */
const SLICE = 5;

const SLASH = Buffer.from('/');
const BLOCK = 512n;

/**
 * Measures the disk usage of a tree, including its root. A file with several hard links counts once. The calls are
 * synchronous and run in slices, because an asynchronous lstat for each file takes many times as long. Files that
 * disappear during the walk are not counted, nor are files in a directory that this user cannot read.
 * @throws system errors, the signal's reason
 */
export async function measureTree(root: string, signal: AbortSignal): Promise<Usage> {
  const linked = new Set<bigint>();
  let blocks = 0n;
  let inodes = 0;
  let sliceEnd = performance.now() + SLICE;

  const count = (path: Buffer): boolean => {
    const status = ignoring(UNCOUNTED, () => lstatSync(path, { bigint: true }));
    if (status === undefined) return false;
    if (status.nlink > 1n && !status.isDirectory()) {
      // the tree lies on one file system, so the inode number is unique
      if (linked.has(status.ino)) return false;
      linked.add(status.ino);
    }
    blocks += status.blocks;
    inodes += 1;
    return status.isDirectory();
  };

  const walk = async (directory: Buffer): Promise<void> => {
    for (const name of ignoring(UNCOUNTED, () => readdirSync(directory, { encoding: 'buffer' })) ?? []) {
      if (performance.now() > sliceEnd) {
        await nextTurn();
        signal.throwIfAborted();
        sliceEnd = performance.now() + SLICE;
      }
      const path = Buffer.concat([directory, SLASH, name]);
      if (!count(path)) continue;
      if (path.length < LONG_PATH) await walk(path);
      else await walkThroughDescriptor(path);
    }
  };

  const walkThroughDescriptor = async (path: Buffer): Promise<void> => {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    const descriptor = ignoring(UNCOUNTED, () => openSync(path, flags));
    if (descriptor === undefined) return;
    try {
      await walk(Buffer.from(`/proc/self/fd/${descriptor}`));
    } finally {
      closeSync(descriptor);
    }
  };

  signal.throwIfAborted();
  const path = Buffer.from(root);
  if (count(path)) await walk(path);
  return { bytes: Number(blocks * BLOCK), inodes };
}

/** Flushes the names in a directory to the disk. */
export async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The same as a synchronous call, for use inside a transaction. */
export function syncDirectoryNow(path: string): void {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** Waits for all, also if one fails, so that none uses a descriptor after the call. @throws the first error */
export async function settle(work: readonly Promise<unknown>[]): Promise<void> {
  for (const result of await Promise.allSettled(work)) if (result.status === 'rejected') throw result.reason;
}

const UNCOUNTED: readonly unknown[] = ['ENOENT', 'EACCES'];

function ignoring<T>(codes: readonly unknown[], call: () => T): T | undefined {
  try {
    return call();
  } catch (error) {
    if (codes.includes(errnoOf(error))) return undefined;
    throw error;
  }
}

export function hasVanished(error: unknown): boolean {
  return errnoOf(error) === 'ENOENT';
}

/** For `catch`. @throws any error but one about a missing file */
export function undefinedIfVanished(error: unknown): undefined {
  if (!hasVanished(error)) throw error;
}
