import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { errnoOf } from '../../src/errno.ts';
import { libc } from '../../src/system/libc.ts';
import { skipFor } from './present.ts';
import { scratch } from './scratch.ts';

/** A file system of the test's own, mounted until the scope ends. */
export interface Disk extends Disposable {
  readonly path: string;
}

const MIB = 1 << 20;
/** Debian keeps mkfs and losetup where only root looks. */
const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` };

function run(command: string, ...parameters: readonly string[]): void {
  execFileSync(command, parameters, { env, stdio: ['ignore', 'ignore', 'pipe'] });
}

/** @param options of mount(8) */
export function tmpfs(options: string): Disk {
  return mounted((path) => run('mount', '-t', 'tmpfs', '-o', options, 'tmpfs', path));
}

/**
 * ext4 in a file, 64 MiB unless told otherwise, with blocks as large as on a large disk and none kept for root.
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
 * ext4 of 64 MiB on a disk that holds no more than `bytes`: what is written goes into the page cache, and the kernel finds
 * out later that it cannot be kept.
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
      run('umount', '--lazy', below); // it stays as long as the image is in use
    }
  });
}

/** Writes more to a brittle disk than it can keep. On a busy machine the kernel finds that out while it is written. */
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

/** From now on everything that touches the ext4 at `path` is EIO, as on a disk that is gone. */
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

/** A directory of a test that is made read-only and writable again, by a mount of itself. */
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
 * Why a test can't have such a file system here; `false` where it can.
 * @throws Error as `skipFor` where root lacks no more than a program for it
 */
export function unavailable(make: () => Disk): string | false {
  try {
    make()[Symbol.dispose]();
    return false;
  } catch (error) {
    const why = `no such file system can be made and mounted here: ${error instanceof Error ? error.message.trim() : error}`;
    const isMissing = process.getuid?.() === 0 && (error as NodeJS.ErrnoException).code === 'ENOENT';
    return isMissing ? skipFor(why) : why;
  }
}
