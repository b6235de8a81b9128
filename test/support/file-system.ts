import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { errnoOf } from '../../src/errno.ts';
import { libc } from '../../src/system/libc.ts';
import { skipFor } from './present.ts';
import { scratch } from './scratch.ts';

/** A file system for one test, mounted until the scope ends. */
export interface Disk extends Disposable {
  readonly path: string;
}

const MIB = 1 << 20;
/** On Debian, mkfs and losetup are in folders that only the PATH of root has. */
const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` };

function run(command: string, ...parameters: readonly string[]): void {
  execFileSync(command, parameters, { env, stdio: ['ignore', 'ignore', 'pipe'] });
}

/** @param options of mount(8) */
export function tmpfs(options: string): Disk {
  return mounted((path) => run('mount', '-t', 'tmpfs', '-o', options, 'tmpfs', path));
}

/**
 * ext4 in a file, by default 64 MiB, with the block size of a large disk and no blocks reserved for root.
 * @param options of mkfs.ext4(8)
 */
export function ext4(options: readonly string[] = [], bytes = 64 * MIB): Disk {
  return mounted((path, image) => {
    writeFileSync(image, '');
    truncateSync(image, bytes);
    run('mkfs.ext4', '-q', '-F', '-b', '4096', '-m', '0', ...options, image);
    run('mount', '-o', 'loop', image, path);
  });
}

/**
 * ext4 of 64 MiB on a disk that has room for `bytes` only. Writes go into the page cache, and fail when the kernel writes
 * them to the disk.
 */
export function brittleExt4(bytes = 24 * MIB): Disk {
  return mounted((path, image) => {
    const below = join(dirname(image), 'below');
    mkdirSync(below);
    run('mount', '-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', below);
    try {
      const inside = join(below, 'image');
      writeFileSync(inside, '');
      truncateSync(inside, 64 * MIB);
      run('mkfs.ext4', '-q', '-F', '-b', '4096', '-m', '0', '-E', 'nodiscard', inside);
      run('mount', '-o', 'loop', inside, path);
    } finally {
      run('umount', '--lazy', below); // it stays mounted as long as the image is in use
    }
  });
}

/** Writes more to a brittle disk than it has room for. On a busy machine the write itself may fail. */
export function writeTooMuch({ path }: Disk): void {
  try {
    writeFileSync(join(path, 'too large'), Buffer.alloc(40 * MIB, 1));
  } catch (error) {
    if (!['EROFS', 'EIO'].includes(errnoOf(error) ?? '')) throw error;
  }
}

const ioctl = libc.func('int ioctl(int, ulong, const void *)');
/** _IOR('X', 125, __u32); the flag: without writing the journal. */
const EXT4_IOC_SHUTDOWN = 0x8004587d;
const NO_LOG_FLUSH = 2;

/** From now on every call on the ext4 at `path` fails with EIO, as after the disk was removed. */
export function shutdown(path: string): void {
  const fd = openSync(path, 'r');
  try {
    const flags = Buffer.alloc(4);
    flags.writeUInt32LE(NO_LOG_FLUSH);
    if (ioctl(fd, EXT4_IOC_SHUTDOWN, flags) < 0) throw new Error(`${path} can't be shut down`);
  } finally {
    closeSync(fd);
  }
}

/** Makes a directory read-only and writable again, by a bind mount of itself. */
export function readOnlySwitch(path: string): Disposable & { set(readOnly: boolean): void } {
  run('mount', '--bind', path, path);
  return {
    set: (readOnly) => run('mount', '-o', `remount,bind,${readOnly ? 'ro' : 'rw'}`, path),
    [Symbol.dispose]: () => run('umount', '--lazy', path),
  };
}

function mounted(mount: (path: string, image: string) => void): Disk {
  const place = scratch();
  const path = join(place.path, 'disk');
  try {
    mkdirSync(path);
    mount(path, join(place.path, 'image'));
  } catch (error) {
    place[Symbol.dispose]();
    throw error;
  }
  return {
    path,
    [Symbol.dispose]() {
      run('umount', path);
      place[Symbol.dispose]();
    },
  };
}

/**
 * The reason to skip a test of such a file system; `false` if it can be made here.
 * @throws Error as `skipFor` does if only a program is missing
 */
export function unavailable(make: () => Disk): string | false {
  try {
    make()[Symbol.dispose]();
    return false;
  } catch (error) {
    const why = `no such file system can be made and mounted here: ${error instanceof Error ? error.message.trim() : error}`;
    const isMissing = process.getuid?.() === 0 && errnoOf(error) === 'ENOENT';
    return isMissing ? skipFor(why) : why;
  }
}
