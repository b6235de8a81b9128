import assert from 'node:assert/strict';
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
import { Images, type Manner } from './filled-store.ts';
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

/** What ends the processes of a phase. After `remount`, nothing is lost, but no process can know that. */
const ENDS = ['power cut', 'power cut', 'kill', 'remount'] as const;
/** The processes that unpack at the same time. */
type Manners = Readonly<Record<string, Manner>>;
const DURABLE: Manners = { durable: { durable: true } };
const CACHED: Manners = { cached: { durable: false } };
const MANNERS: readonly Manners[] = [
  DURABLE,
  CACHED,
  { durable: { durable: true }, cached: { durable: false } },
  { cached: { durable: false }, 'cached elsewhere': { durable: false, elsewhere: true } },
  { durable: { durable: true }, 'cached elsewhere': { durable: false, elsewhere: true } },
];

/** On Debian, mkfs is in a folder that only the PATH of root has. */
const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` };
const run = (program: string, ...args: readonly string[]): void =>
  void execFileSync(program, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });

export const proof: Proof = {
  name: 'power-cuts',
  describes:
    'a power cut at any moment takes nothing from an image that was reported as durable, and no store calls a damaged layer usable',
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
        await using disk = await Disk.make(join(directory, `disk-${disks++}`), kind);
        const root = join(disk.path, 'store');
        const durable = new Set<string>();
        const phases = 1 + random.below(3);
        // a third of the cases demand synced layers in each phase, a third in none
        const choices = random.pick([[DURABLE], [CACHED], MANNERS]);
        let modes: string[] = [];
        for (let phase = 0; phase < phases; phase++) {
          // the last phase ends with a power cut
          const end = phase === phases - 1 ? 'power cut' : random.pick(ENDS);
          const manners = random.pick(choices);
          modes = [...modes, ...Object.keys(manners)];
          /** Tags that were reported and are not synced. They can be used until the disk is unmounted. */
          const cached = new Set<string>();
          await using stack = new AsyncDisposableStack();
          const fillings = [];
          for (const manner of Object.values(manners)) {
            const syncAfter = random.oneIn(2) ? 1 + random.below(images.tags.length) : 0;
            const tags = random.shuffled(images.tags);
            fillings.push({
              manner,
              filling: stack.use(await images.fill(root, type, { ...manner, syncAfter }, tags)),
            });
          }
          for (const { filling } of fillings) await images.moment(filling, random);
          // what is reported after a power cut is not a promise
          for (const { filling, manner } of fillings) {
            for (const [tag, isDurable] of filling.reported) {
              if (isDurable) durable.add(tag);
              else if (manner.elsewhere !== true) cached.add(tag);
            }
          }
          if (end === 'power cut') disk.cutPower();
          for (const { filling } of fillings) await filling[Symbol.asyncDispose]();
          if (end !== 'kill') await disk.comeBack();
          count(`usable layers found whole after a ${end}, durable`, await images.check(root, type, durable, true));
          const promised = end === 'kill' ? [...durable, ...cached] : durable;
          count(
            `usable layers found whole after a ${end}, not durable`,
            await images.check(root, type, promised, false),
          );
          count(`${end}: ${Object.keys(manners).join(' and ')}`);
        }
        await images.goOn(root, type);
        count(`${kind}, ${type}, ${new Set(modes).size > 1 ? 'mixed' : modes[0]}`);
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
    const isUsed = () => execFileSync('losetup', ['-j', this.image], { env, encoding: 'utf8' }) !== '';
    for (let tries = 0; isUsed(); tries++) {
      assert.ok(tries < 600, `another mount namespace keeps ${this.image} mounted`);
      await sleep(100);
    }
  }
}
