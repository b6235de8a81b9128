import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { libc, systemError } from '../../src/system/libc.ts';
import { skipFor } from '../support/present.ts';

/** Disks whose power can be cut, for `power-cuts` and `served-power-cuts`. */

/**
 * XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN have the same number. With NOLOGFLUSH nothing more is written to the disk, the
 * journal in memory included. This is the state after a power cut, except for the cache of the disk.
 */
const SHUTDOWN = 0x8004587d;
const NOLOGFLUSH = 2;
const ioctl = libc.func('int ioctl(int, ulong, ...)');

/** mkfs.xfs refuses less than 300 MB. The file is sparse. */
const SIZE = 320 << 20;
export const DISK_KINDS = ['ext4', 'xfs'] as const;
export type DiskKind = (typeof DISK_KINDS)[number];
const MAKE: Readonly<Record<DiskKind, readonly string[]>> = {
  ext4: ['mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=1,nodiscard'],
  xfs: ['mkfs.xfs', '-q', '-f', '-K'],
};

/** On Debian, mkfs is in a folder that only the PATH of root has. */
const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` };
const run = (program: string, ...args: readonly string[]): void =>
  void execFileSync(program, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });

/** Why such disks cannot be made here. @throws Error with `CI=true` if only a program is missing */
export function disksMissing(): string | false {
  if (process.getuid?.() !== 0) return 'file systems are made and mounted, which needs root';
  const absent = DISK_KINDS.find((kind) => spawnSync(MAKE[kind][0] ?? '', ['-V'], { env, stdio: 'ignore' }).error);
  if (absent !== undefined) return skipFor(`mkfs.${absent} is not installed (e2fsprogs, xfsprogs)`);
  const known = readFileSync('/proc/filesystems', 'utf8');
  const unknown = DISK_KINDS.find((kind) => !new RegExp(`\\t${kind}$`, 'm').test(known));
  return unknown !== undefined && `this kernel has no ${unknown}`;
}

/** A file system on a loop device, whose power can be cut. */
export class Disk implements AsyncDisposable {
  readonly path: string;
  private readonly image: string;
  private readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
    this.image = join(folder, 'image');
    this.path = join(folder, 'mounted');
  }

  static async make(folder: string, kind: DiskKind): Promise<Disk> {
    const disk = new Disk(folder);
    await mkdir(disk.path, { recursive: true });
    writeFileSync(disk.image, '');
    truncateSync(disk.image, SIZE);
    const [program = '', ...options] = MAKE[kind];
    run(program, ...options, disk.image);
    disk.mount();
    return disk;
  }

  cutPower(): void {
    const fd = openSync(this.path, 'r');
    try {
      const how = Buffer.alloc(4);
      how.writeUInt32LE(NOLOGFLUSH);
      if (ioctl(fd, SHUTDOWN, 'void *', how) !== 0) throw systemError('ioctl', this.path);
    } finally {
      closeSync(fd);
    }
  }

  /** Unmounts and mounts the file system, so that the kernel drops its memory and replays the journal. */
  async comeBack(): Promise<void> {
    await this.unmount();
    const isUsed = () => execFileSync('losetup', ['-j', this.image], { env, encoding: 'utf8' }) !== '';
    for (let tries = 0; isUsed(); tries++) {
      assert.ok(tries < 600, `another mount namespace keeps ${this.image} mounted`);
      await sleep(100);
    }
    this.mount();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmount();
    await rm(this.folder, { recursive: true, force: true });
  }

  private mount(): void {
    run('mount', '-o', 'loop', this.image, this.path);
  }

  /**
   * Unmounting may fail for a moment, because the kernel is still ending a killed process. A mount namespace that is going away
   * keeps the file system, with its memory, a moment longer.
   */
  private async unmount(): Promise<void> {
    for (let tries = 0; ; tries++) {
      try {
        run('umount', this.path);
        break;
      } catch (error) {
        if (tries >= 600) throw error;
        await sleep(100);
      }
    }
  }
}
