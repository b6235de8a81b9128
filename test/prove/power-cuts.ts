import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { libc, systemError } from '../../src/system/libc.ts';
import { Random } from '../fuzz/random.ts';
import { removeWithProcess } from '../support/child.ts';
import { skipFor } from '../support/present.ts';
import { Images } from './filled-store.ts';
import type { Proof } from './proof.ts';

/**
 * XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN have the same number. With NOLOGFLUSH nothing more is written to the disk, the
 * journal in memory included. This is the state after a power cut, except for the cache of the disk.
 */
const SHUTDOWN = 0x8004587d;
const NOLOGFLUSH = 2;
const ioctl = libc.func('int ioctl(int, ulong, ...)');

/** mkfs.xfs refuses less than 300 MB. The file is sparse. */
const SIZE = 320 << 20;
const KINDS = ['ext4', 'xfs'] as const;
type Kind = (typeof KINDS)[number];
const MAKE: Readonly<Record<Kind, readonly string[]>> = {
  ext4: ['mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=1,nodiscard'],
  xfs: ['mkfs.xfs', '-q', '-f', '-K'],
};

/** On Debian, mkfs is in a folder that only the PATH of root has. */
const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` };
const run = (program: string, ...args: readonly string[]): void =>
  void execFileSync(program, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });

export const proof: Proof = {
  name: 'power-cuts',
  describes:
    'a power cut at any moment takes nothing from a committed layer of a durable store, and no store is unusable',
  missing() {
    if (process.getuid?.() !== 0) return 'file systems are made and mounted, which needs root';
    const absent = KINDS.find((kind) => spawnSync(MAKE[kind][0] ?? '', ['-V'], { env, stdio: 'ignore' }).error);
    if (absent !== undefined) return skipFor(`mkfs.${absent} is not installed (e2fsprogs, xfsprogs)`);
    const known = readFileSync('/proc/filesystems', 'utf8');
    const unknown = KINDS.find((kind) => !new RegExp(`\\t${kind}$`, 'm').test(known));
    return unknown !== undefined && `this kernel has no ${unknown}`;
  },
  async open({ count }) {
    const directory = await mkdtemp(join(tmpdir(), 'unpackd-power-'));
    removeWithProcess(directory);
    const images = await Images.write(directory);
    let disks = 0;
    return {
      async attempt(seed) {
        const random = new Random(seed);
        const kind = random.pick(KINDS);
        const type = random.oneIn(4) ? 'native' : 'overlay';
        const durable = !random.oneIn(4);
        await using disk = await Disk.make(join(directory, `disk-${disks++}`), kind);
        const root = join(disk.path, 'store');
        const promised = new Set<string>();
        const cuts = 1 + random.below(2);
        for (let cut = 0; cut < cuts; cut++) {
          await using filling = await images.fill(root, type, durable, random.shuffled(images.tags));
          await images.moment(filling, random);
          // a tag that is reported after the power cut is not a promise
          for (const tag of filling.reported) promised.add(tag);
          disk.cutPower();
          await filling[Symbol.asyncDispose]();
          await disk.comeBack();
          const layers = await images.check(root, type, promised, durable);
          count(durable ? 'layers found whole, durable=true' : 'layers found, durable=false', layers);
        }
        await images.goOn(root, type, durable);
        count(`${kind}, ${type}, durable=${durable}`, cuts);
      },
      [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
    };
  },
};

/** A file system on a loop device, whose power can be cut. */
class Disk implements AsyncDisposable {
  readonly path: string;
  private readonly image: string;
  private readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
    this.image = join(folder, 'image');
    this.path = join(folder, 'mounted');
  }

  static async make(folder: string, kind: Kind): Promise<Disk> {
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
    this.mount();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmount();
    await rm(this.folder, { recursive: true, force: true });
  }

  private mount(): void {
    run('mount', '-o', 'loop', this.image, this.path);
  }

  /** Unmounting may fail for a moment, because the kernel is still ending a killed process. */
  private async unmount(): Promise<void> {
    for (let tries = 0; ; tries++) {
      try {
        return run('umount', this.path);
      } catch (error) {
        if (tries >= 600) throw error;
        await sleep(100);
      }
    }
  }
}
