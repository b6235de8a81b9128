import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import '../support/needs-root.ts';
import { KernelTree } from '../../src/diff/kernel-tree.ts';
import type { LayerTree } from '../../src/diff/layer-tree.ts';
import { MemoryTree } from '../../src/erofs/memory-tree.ts';
import { cString, type FileStatus, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT } from '../../src/system/files.ts';
import { Random } from '../fuzz/random.ts';
import { acl } from '../support/acl.ts';
import { scratch } from '../support/scratch.ts';
import { differences } from './both-trees.ts';

const NAMES = ['a', 'b', 'c', 'd', 'a', 'b', '.', '..', 'n'.repeat(255), 'n'.repeat(256), 'ü\n'].map((name) =>
  cString(name),
);
const MODES = [0o755, 0o644, 0o600, 0o7777, 0o2755, 0o2775, 0o4711, 0o1777, 0o000, 0o2644, 0o6750];
const IDS = [0, 1, 1000, 65_534, 4_294_967_294, 0xffffffff];
const TIMES = [0, 1, -5, 1_500_000_000, 2 ** 31, 2 ** 32 + 7];
const ACLS = [
  acl('user::rwx,group::r-x,other::---'),
  acl('user::rw-,user:1000:rwx,group::r--,mask::rw-,other::r--'),
  acl('user::rwx,group::rwx,group:5:r-x,mask::r-x,other::---'),
  acl('user::rwx,user:1:---,user:1:rwx,group::rwx,group:7:r--,group:3:rwx,mask::rwx,other::rwx'),
  acl('user::---,group::---,mask::rwx,other::---'),
  acl('user::rwx,user:5:r--,group::r-x,other::---'),
  acl('user::rwx,group::r-x'),
  acl('group::r-x,user::rwx,other::---'),
  acl('user::rwx,group::r-x,other::---,other::---'),
  acl('user::rwx,group::r-x,other::---').fill(8, 6, 7),
  Buffer.from([2, 0, 0, 0]),
  Buffer.from([1, 0, 0, 0]),
  Buffer.from([2, 0, 0]),
  Buffer.concat([acl('user::rwx,group::r-x,other::---'), Buffer.from([1])]),
  // named ones without an ID, an ID where none belongs, an unknown tag
  Buffer.from('0200000001000700ffffffff02000700ffffffff04000500ffffffff10000700ffffffff20000000ffffffff', 'hex'),
  Buffer.from('02000000010007000000000004000500050000002000000000000001', 'hex'),
  Buffer.from('020000000100070000000000400005000500000020000000', 'hex'),
  Buffer.alloc(0),
];
const CAPABILITY = Buffer.from('0100000200040000000000000000000000000000', 'hex');
const CAPABILITIES = [
  CAPABILITY,
  Buffer.from('010000030004000000000000000000000000000000000000', 'hex').fill(7, 20, 21),
  Buffer.from('0100000300040000000000000000000000000000ffffffff', 'hex'),
  Buffer.from('0200000200040000000000000000000000000000', 'hex'),
  CAPABILITY.subarray(0, 12),
  Buffer.alloc(0),
];
const KEYS = [
  'user.a',
  'user.b',
  'trusted.a',
  'security.x',
  'user.',
  'trusted.',
  'security.',
  'system.x',
  'x',
  '',
].concat(`user.${'k'.repeat(250)}`, `user.${'k'.repeat(251)}`);
const TARGETS = ['a', '../b', '', 't'.repeat(300)].map((target) => cString(target));
const TYPES = [S_IFCHR, S_IFBLK, S_IFIFO, S_IFCHR, 0o070000];
const DEVICES = [0, 0x0501, 0xfffffff0];

/** The same file or directory in both trees. */
interface Pair {
  readonly kernel: number;
  readonly memory: number;
  /** Where the next data of a file go. */
  end: number;
}

/** Makes the same random calls on a directory of the kernel and on a tree in memory, and compares each result. */
class Both {
  readonly tar: Buffer;
  readonly memory = new MemoryTree();
  private readonly kernel: KernelTree;
  private readonly random: Random;
  private readonly directories: Pair[];
  private readonly files: Pair[] = [];
  /** The calls so far. */
  readonly calls: string[] = [];

  constructor(root: string, random: Random) {
    this.random = random;
    this.kernel = new KernelTree(root);
    this.tar = random.bytes(4096);
    this.directories = [{ kernel: this.kernel.root, memory: this.memory.root, end: 0 }];
  }

  [Symbol.dispose](): void {
    for (const { kernel } of [...this.directories, ...this.files]) this.kernel.close(kernel);
  }

  step(): void {
    const { random } = this;
    const dir = random.pick(this.directories);
    const name = this.nameIn(dir);
    const other = random.pick(this.directories);
    const otherName = this.nameIn(other);
    const file = this.files.length === 0 ? undefined : random.pick(this.files);
    const mode = random.pick(MODES);
    const times = [this.time(), this.time()] as const;
    const [uid, gid] = [random.pick(IDS), random.pick(IDS)];
    const device = random.pick(DEVICES);
    const type = random.pick(TYPES);
    const target = random.pick(TARGETS);
    const [key, value] = this.xattr();
    const hex = (bytes: Buffer) => bytes.toString('latin1', 0, 12);
    const at = `${dir.memory}/${hex(name)}`;
    switch (random.below(25)) {
      case 0:
      case 1:
      case 2:
        this.open(this.files, `createFile ${at} ${mode.toString(8)}`, (tree, side) =>
          tree.createFile(dir[side], name, mode),
        );
        return;
      case 3:
      case 4:
      case 5:
      case 6:
        this.same(`mkdirAt ${at} ${mode.toString(8)}`, (tree, side) => tree.mkdirAt(dir[side], name, mode));
        return;
      case 7:
        this.same(`symlinkAt ${at} ${hex(target)}`, (tree, side) => tree.symlinkAt(target, dir[side], name));
        return;
      case 8:
        this.same(`linkAt ${other.memory}/${hex(otherName)} ${at}`, (tree, side) =>
          tree.linkAt(other[side], otherName, dir[side], name),
        );
        return;
      case 9:
        this.same(`mknodAt ${at} ${type.toString(8)} ${mode.toString(8)} ${device}`, (tree, side) =>
          tree.mknodAt(dir[side], name, type | mode, device),
        );
        return;
      case 10:
        this.same(`unlinkAt ${at}`, (tree, side) => tree.unlinkAt(dir[side], name));
        return;
      case 11: {
        if (name[0] === 0x2e) return;
        this.same(`removeDirectory ${at}`, (tree, side) => {
          let removed = 0;
          tree.removeDirectory(
            dir[side],
            name,
            () => {},
            () => removed++,
          );
          return removed;
        });
        return;
      }
      case 12:
      case 13:
        this.open(this.directories, `openDirectory ${at}`, (tree, side) => tree.openDirectory(dir[side], name));
        return;
      case 14:
        this.same(`list ${dir.memory}`, (tree, side) =>
          tree
            .list(dir[side], () => {})
            .map((each) => each.toString('latin1'))
            .sort(),
        );
        return;
      case 15:
        this.same(`statAt ${at}`, (tree, side) => facts(tree.statAt(dir[side], name)));
        return;
      case 16:
        this.same(`readlinkAt ${at}`, (tree, side) => tree.readlinkAt(dir[side], name).toString('latin1'));
        return;
      case 17:
        this.same(`chownAt ${at} ${uid} ${gid}`, (tree, side) => tree.chownAt(dir[side], name, uid, gid));
        return;
      case 18:
        this.same(`chmodAt ${at} ${mode.toString(8)}`, (tree, side) => tree.chmodAt(dir[side], name, mode));
        return;
      case 19:
        this.same(`utimensAt ${at} ${times[1].seconds}`, (tree, side) => tree.utimensAt(dir[side], name, ...times));
        return;
      case 20:
      case 21:
        this.same(`setXattrAt ${at} ${hex(key)} ${value.toString('hex', 0, 50)}`, (tree, side) =>
          tree.setXattrAt(dir[side], name, key, value),
        );
        return;
      case 22:
        if (this.memory.statFd(dir.memory).links === 0) return; // a removed directory has none in memory
        this.same(`xattrs ${dir.memory}`, (tree, side) => [
          tree.hasXattr(dir[side], cString('system.posix_acl_default')),
          [...tree.xattrs(dir[side])].map(([each, bytes]) => `${each}=${bytes.toString('hex')}`).sort(),
        ]);
        return;
      case 23:
        this.same(`statFd ${dir.memory}`, (tree, side) => facts(tree.statFd(dir[side])));
        return;
      default:
        if (file !== undefined) this.changeFile(file, mode, uid, gid, key, value);
    }
  }

  private changeFile(file: Pair, mode: number, uid: number, gid: number, key: Buffer, value: Buffer): void {
    const { random } = this;
    switch (random.below(6)) {
      case 0:
      case 1: {
        const length = 1 + random.below(300);
        const offset = random.below(this.tar.length - length);
        const position = file.end + (random.oneIn(3) ? random.below(5000) : 0);
        file.end = position + length;
        const bytes = this.tar.subarray(offset, offset + length);
        this.same(`write ${file.memory} ${position} ${length}`, (tree, side) =>
          tree.write(file[side], bytes, position, offset),
        );
        return;
      }
      case 2: {
        const size = random.below(file.end + 5000);
        file.end = size;
        this.same(`truncate ${file.memory} ${size}`, (tree, side) => tree.truncate(file[side], size));
        return;
      }
      case 3:
        this.same(`chownFd ${file.memory} ${uid} ${gid}`, (tree, side) => tree.chownFd(file[side], uid, gid));
        return;
      case 4:
        this.same(`chmodFd ${file.memory} ${mode.toString(8)}`, (tree, side) => tree.chmodFd(file[side], mode));
        return;
      default:
        this.same(`setXattrFd ${file.memory} ${key.toString('latin1', 0, 30)}`, (tree, side) =>
          tree.setXattrFd(file[side], key, value),
        );
    }
  }

  /** `..` of the root leads out of the tree, and the rules never ask for it. */
  private nameIn(dir: Pair): Buffer {
    const name = this.random.pick(NAMES);
    return dir.memory === this.memory.root && name.equals(cString('..')) ? cString('a') : name;
  }

  private time() {
    return { seconds: this.random.pick(TIMES), nanoseconds: this.random.pick([0, 1, 999_999_999]) };
  }

  private xattr(): readonly [Buffer, Buffer] {
    const { random } = this;
    switch (random.below(5)) {
      case 0:
        return [cString('security.capability'), random.pick(CAPABILITIES)];
      case 1:
        return [cString('system.posix_acl_access'), random.pick(ACLS)];
      case 2:
      case 3:
        return [cString('system.posix_acl_default'), random.pick(ACLS)];
      default:
        return [cString(random.pick(KEYS)), random.oneIn(10) ? Buffer.alloc(65_537) : random.bytes(random.below(9))];
    }
  }

  private open(kind: Pair[], call: string, run: (tree: LayerTree, side: 'kernel' | 'memory') => number): void {
    this.calls.push(call);
    const [kernel, memory] = this.results(run);
    if (typeof kernel.value === 'number' && typeof memory.value === 'number') {
      kind.push({ kernel: kernel.value, memory: memory.value, end: 0 });
    } else {
      assert.deepEqual(memory, kernel, call);
    }
  }

  private same(call: string, run: (tree: LayerTree, side: 'kernel' | 'memory') => unknown): void {
    this.calls.push(call);
    const [kernel, memory] = this.results(run);
    assert.deepEqual(memory, kernel, call);
  }

  private results<T>(run: (tree: LayerTree, side: 'kernel' | 'memory') => T) {
    return [outcome(() => run(this.kernel, 'kernel')), outcome(() => run(this.memory, 'memory'))] as const;
  }
}

function outcome<T>(run: () => T): { readonly value?: T; readonly error?: string } {
  try {
    return { value: run() };
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error) || !('syscall' in error)) throw error;
    // the kernel's chmod has a path in /proc
    return { error: error.message.replace(/, chmod .*/s, ', chmod') };
  }
}

/** Without what differs by design: inode numbers, sizes of directories, times. */
function facts(status: FileStatus | undefined): unknown {
  if (status === undefined) return undefined;
  const { mode, uid, gid, links, size, major, minor } = status;
  return { mode, uid, gid, links, size: (mode & S_IFMT) === S_IFDIR ? 0 : size, major, minor };
}

describe('a tree in memory', () => {
  const umask = process.umask();
  before(() => void process.umask(0));
  after(() => void process.umask(umask));

  it('behaves as a directory of the kernel: random calls give the same results, errors and trees', () => {
    using dir = scratch();
    for (let seed = 1; seed <= 80; seed++) {
      const root = join(dir.path, String(seed));
      mkdirSync(root, { mode: 0o755 });
      const since = Date.now() / 1000;
      using both = new Both(root, new Random(seed));
      try {
        for (let i = 0; i < 150; i++) both.step();
        assert.deepEqual(differences(root, both.memory.contents(), both.tar, since), []);
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}\n${both.calls.join('\n')}`, { cause: error });
      }
    }
  });
});
