import type { Creator, LayerTree } from '../diff/layer-tree.ts';
import { UnpackError } from '../errors.ts';
import {
  deviceNumbers,
  type FileStatus,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  type Timespec,
} from '../system/files.ts';
import { DirectoryEntries } from './directory-entries.ts';
import { FileContents } from './file-contents.ts';
import { InodeAttributes, requireXattr } from './inode-attributes.ts';
import { InodeTable } from './inode-table.ts';
import { kernelError } from './kernel-error.ts';
import { TreeContents } from './tree-contents.ts';

const S_ISVTX = 0o1000;

const MAX_NAME = 255;
/** Maximum bytes of a symbolic link's target: PATH_MAX without the NUL. */
const MAX_TARGET = 4095;

const EPOCH: Timespec = { seconds: 0, nanoseconds: 0 };
const BLOCK = 4096;

/**
 * A tree in memory, to which a layer is written before an EROFS index is made from it. It behaves for the rules of
 * src/diff as a file system of the kernel does for root with umask 0: the same results, errors and side effects (sources:
 * fs/namei.c, fs/attr.c, fs/xattr.c, fs/posix_acl.c). A random comparison with the kernel holds that
 * (test/erofs/memory-tree.test.ts).
 *
 * What differs, because the same layer must give the same bytes on every host, and because of what EROFS can hold:
 *  - the time is always 1970, and there are no access times: `atime` is `mtime`;
 *  - contents stay in the tar, so only their places are kept, and `write` must go on where the file ends or later;
 *  - the limits of extended attributes are those of EROFS;
 *  - what was removed loses its attributes at once, even if it is open.
 *
 * A handle is the row of an inode, so nothing has to be closed, and the tree can be read after it was disposed.
 */
export class MemoryTree implements LayerTree {
  readonly root: number;
  readonly pathLength = 0;
  readonly creator: Creator = { uid: 0, gid: 0, umask: 0 };
  private readonly inodes: InodeTable;
  private readonly entries: DirectoryEntries;
  private readonly files: FileContents;
  private readonly attributes: InodeAttributes;

  /** @param memoryBytes the memory that the tree may use; more throws LIMIT_EXCEEDED */
  constructor(memoryBytes = Number.POSITIVE_INFINITY) {
    let left = memoryBytes;
    const charge = (bytes: number): void => {
      left -= bytes;
      if (left >= 0 || bytes <= 0) return;
      throw new UnpackError(
        'LIMIT_EXCEEDED',
        `the index of its files needs more than ${memoryBytes} bytes of memory, the limit (UNPACK_MAX_LAYER_MEMORY)`,
      );
    };
    this.inodes = new InodeTable(charge);
    this.entries = new DirectoryEntries(this.inodes, charge);
    this.files = new FileContents(this.inodes, charge);
    this.attributes = new InodeAttributes(this.inodes, this.creator, charge);
    this.root = this.inodes.add(S_IFDIR | 0o755, 0, 0);
    this.inodes.links[this.root] = 2;
    this.inodes.place[this.root] = -1;
  }

  [Symbol.dispose](): void {}

  /** What the tree holds now, for the writer of the index. */
  contents(): TreeContents {
    return new TreeContents(this.root, this.inodes, this.entries, this.files, this.attributes.xattrs);
  }

  createFile(dir: number, name: Buffer, mode: number): number {
    this.requireFree(dir, name, 'openat');
    const file = this.attributes.inherit(dir, S_IFREG | (mode & 0o7777));
    this.link(dir, name, file);
    return file;
  }

  write(file: number, bytes: Buffer, position: number, offset: number): void {
    if (bytes.length === 0) return;
    this.files.write(file, position, offset, bytes.length);
    this.attributes.xattrs.dropCapability(file);
    this.touch(file);
  }

  truncate(file: number, size: number): void {
    this.files.truncate(file, size);
    this.attributes.xattrs.dropCapability(file);
    this.touch(file);
  }

  close(_handle: number): void {}

  mkdirAt(dir: number, name: Buffer, mode: number): void {
    this.requireFree(dir, name, 'mkdirat');
    const made = this.attributes.inherit(dir, S_IFDIR | (mode & (0o777 | S_ISVTX)));
    this.inodes.links[made] = 1;
    this.inodes.place[made] = this.link(dir, name, made);
    this.inodes.links[dir] = (this.inodes.links[dir] ?? 0) + 1;
  }

  symlinkAt(target: Buffer, dir: number, name: Buffer): void {
    const length = target.length - 1;
    if (length === 0) throw kernelError('ENOENT', 'symlinkat', name);
    if (length > MAX_TARGET) throw kernelError('ENAMETOOLONG', 'symlinkat', name);
    this.requireFree(dir, name, 'symlinkat');
    const made = this.attributes.inherit(dir, S_IFLNK | 0o777);
    this.inodes.place[made] = this.entries.store(target, length);
    this.inodes.size[made] = length;
    this.link(dir, name, made);
  }

  linkAt(oldDir: number, oldName: Buffer, newDir: number, newName: Buffer): void {
    const inode = this.existing(oldDir, oldName, 'linkat', newName);
    this.requireFree(newDir, newName, 'linkat');
    if (this.isDirectory(inode)) throw kernelError('EPERM', 'linkat', newName);
    this.link(newDir, newName, inode);
  }

  mknodAt(dir: number, name: Buffer, mode: number, device: number): void {
    const type = mode & S_IFMT;
    if (type !== S_IFCHR && type !== S_IFBLK && type !== S_IFIFO) throw kernelError('EINVAL', 'mknodat', name);
    this.requireFree(dir, name, 'mknodat');
    const made = this.attributes.inherit(dir, type | (mode & 0o7777));
    if (type !== S_IFIFO) this.inodes.place[made] = device;
    this.link(dir, name, made);
  }

  unlinkAt(dir: number, name: Buffer): void {
    if (isDots(name)) throw kernelError('EISDIR', 'unlinkat', name);
    const entry = this.entry(dir, name, 'unlinkat');
    if (entry < 0) throw kernelError('ENOENT', 'unlinkat', name);
    if (this.isDirectory(this.inodeOf(entry))) throw kernelError('EISDIR', 'unlinkat', name);
    this.unlink(entry);
  }

  removeDirectory(dir: number, name: Buffer, step: () => void, gone?: (inode: bigint) => void): void {
    const top = this.entry(dir, name, 'statx');
    if (top < 0) return;
    const { first } = this.inodes;
    // down to the first entry until a directory is empty, then up: no recursion, because trees can be deep
    for (let at = top; ; ) {
      const inode = this.inodeOf(at);
      const child = this.isDirectory(inode) ? (first[inode] ?? -1) : -1;
      if (child >= 0) {
        at = child;
        continue;
      }
      step();
      const above = this.entries.parent[at] ?? 0;
      this.unlink(at);
      if (this.isDirectory(inode)) gone?.(numberOf(inode));
      if (at === top) return;
      const next = first[above] ?? -1;
      at = next >= 0 ? next : (this.inodes.place[above] ?? -1);
    }
  }

  openDirectory(dir: number, name: Buffer): number {
    const inode = this.existing(dir, name, 'openat');
    if (!this.isDirectory(inode)) throw kernelError('ENOTDIR', 'openat', name);
    return inode;
  }

  /** The path of an archive is walked by the table at once. Anything but directories is left to the walk of `Root`. */
  openDirectoryInRoot(path: Buffer): number | undefined {
    let at = this.root;
    for (let start = 0; start < path.length; ) {
      const slash = path.indexOf(0x2f, start);
      const end = slash < 0 ? path.length : slash;
      // `.`, `..`, and an empty name, which is `.`
      const isDotted = path[start] === 0x2e && (end === start + 1 || (end === start + 2 && path[start + 1] === 0x2e));
      if (end === start || isDotted) return undefined;
      const entry = this.entries.find(at, path, start, end);
      if (entry < 0) return undefined;
      at = this.inodeOf(entry);
      if (!this.isDirectory(at)) return undefined;
      start = end + 1;
    }
    return at;
  }

  realPath(dir: number): string {
    const names: string[] = [];
    for (let at = dir; at !== this.root; ) {
      const entry = this.inodes.place[at] ?? -1;
      names.push(this.entries.name(entry).toString('latin1'));
      at = this.entries.parent[entry] ?? this.root;
    }
    return names.reverse().join('/');
  }

  list(dir: number, step: () => void): Buffer[] {
    step();
    return Array.from(this.entries.sorted(dir), (entry) => {
      const name = this.entries.name(entry);
      return terminated(name, 0, name.length);
    });
  }

  statAt(dir: number, name: Buffer): FileStatus | undefined {
    const inode = this.lookup(dir, name, 'statx');
    return inode < 0 ? undefined : this.statFd(inode);
  }

  statFd(inode: number): FileStatus {
    const { inodes } = this;
    const mode = inodes.mode[inode] ?? 0;
    const type = mode & S_IFMT;
    const device = type === S_IFCHR || type === S_IFBLK ? (inodes.place[inode] ?? 0) : 0;
    const mtime = inodes.time(inode);
    return {
      mode,
      uid: inodes.uid[inode] ?? 0,
      gid: inodes.gid[inode] ?? 0,
      inode: numberOf(inode),
      links: inodes.links[inode] ?? 0,
      size: inodes.size[inode] ?? 0,
      allocated: type === S_IFREG ? this.allocated(inode) : 0,
      ...deviceNumbers(device),
      atime: mtime,
      mtime,
    };
  }

  readlinkAt(dir: number, name: Buffer): Buffer {
    const inode = this.existing(dir, name, 'readlinkat');
    if (this.typeOf(inode) !== S_IFLNK) throw kernelError('EINVAL', 'readlinkat', name);
    const { place, size } = this.inodes;
    return Buffer.from(this.entries.stored(place[inode] ?? 0, size[inode] ?? 0));
  }

  chownAt(dir: number, name: Buffer, uid: number, gid: number): void {
    this.chownFd(this.existing(dir, name, 'fchownat'), uid, gid);
  }

  chownFd(inode: number, uid: number, gid: number): void {
    this.attributes.chown(inode, uid, gid);
  }

  chmodAt(dir: number, name: Buffer, mode: number): void {
    const inode = this.existing(dir, name, 'openat');
    if (this.typeOf(inode) === S_IFLNK) throw kernelError('EOPNOTSUPP', 'chmod', name);
    this.chmodFd(inode, mode);
  }

  chmodFd(inode: number, mode: number): void {
    this.attributes.chmod(inode, mode);
  }

  utimensAt(dir: number, name: Buffer, atime: Timespec, mtime: Timespec): void {
    this.utimensFd(this.existing(dir, name, 'utimensat'), atime, mtime);
  }

  utimensFd(inode: number, atime: Timespec, mtime: Timespec): void {
    for (const { nanoseconds } of [atime, mtime]) {
      if (nanoseconds < 0 || nanoseconds > 999_999_999) throw kernelError('EINVAL', 'utimensat');
    }
    this.inodes.setTime(inode, mtime);
  }

  setXattrAt(dir: number, name: Buffer, key: Buffer, value: Uint8Array): void {
    requireXattr(key, value, 'lsetxattr'); // before the name is looked up, as the kernel does
    this.attributes.set(this.existing(dir, name, 'lsetxattr', key), key, value, 'lsetxattr');
  }

  setXattrFd(file: number, key: Buffer, value: Uint8Array): void {
    requireXattr(key, value, 'fsetxattr');
    this.attributes.set(file, key, value, 'fsetxattr');
  }

  hasXattr(dir: number, key: Buffer): boolean {
    return this.attributes.xattrs.get(dir, key.toString('latin1', 0, key.length - 1)) !== undefined;
  }

  xattrs(dir: number): Map<string, Buffer> {
    return new Map(this.attributes.xattrs.of(dir));
  }

  /** Space does not matter before the index is written. */
  hasRoom(): boolean {
    return true;
  }

  /** Gives an inode a name. @returns the entry */
  private link(dir: number, name: Buffer, inode: number): number {
    const { links } = this.inodes;
    links[inode] = (links[inode] ?? 0) + 1;
    this.touch(dir);
    return this.entries.add(dir, name, inode);
  }

  private unlink(entry: number): void {
    const { links } = this.inodes;
    const inode = this.inodeOf(entry);
    const dir = this.entries.parent[entry] ?? 0;
    this.entries.remove(entry);
    this.touch(dir);
    if (this.isDirectory(inode)) {
      links[inode] = 0;
      links[dir] = (links[dir] ?? 0) - 1;
    } else {
      links[inode] = (links[inode] ?? 0) - 1;
    }
    if (links[inode] !== 0) return;
    this.attributes.remove(inode);
    this.files.remove(inode);
  }

  /** A change sets the modification time to now, which is always 1970. */
  private touch(inode: number): void {
    this.inodes.setTime(inode, EPOCH);
  }

  /** @throws a system error if a file cannot be created at a name */
  private requireFree(dir: number, name: Buffer, syscall: string): void {
    if (isDots(name) || this.entry(dir, name, syscall) >= 0) throw kernelError('EEXIST', syscall, name);
    if (this.inodes.links[dir] === 0 || name.length === 1) throw kernelError('ENOENT', syscall, name);
  }

  /** The inode of a name. @param shown in an error instead of the name @throws ENOENT */
  private existing(dir: number, name: Buffer, syscall: string, shown = name): number {
    const inode = this.lookup(dir, name, syscall, shown);
    if (inode < 0) throw kernelError('ENOENT', syscall, shown);
    return inode;
  }

  /** The inode of a name; -1 if there is none. */
  private lookup(dir: number, name: Buffer, syscall: string, shown = name): number {
    if (name[0] === 0x2e && isDots(name)) {
      const entry = name.length === 2 ? -1 : (this.inodes.place[dir] ?? -1);
      return entry < 0 ? dir : (this.entries.parent[entry] ?? this.root);
    }
    const entry = this.entry(dir, name, syscall, shown);
    return entry < 0 ? -1 : this.inodeOf(entry);
  }

  /** The entry of a name; -1 if there is none. */
  private entry(dir: number, name: Buffer, syscall: string, shown = name): number {
    if (!this.isDirectory(dir)) throw kernelError('ENOTDIR', syscall, shown);
    if (name.length - 1 <= MAX_NAME) return this.entries.find(dir, name, 0, name.length - 1);
    if (this.inodes.links[dir] === 0) return -1; // it was removed, so the kernel does not look for names
    throw kernelError('ENAMETOOLONG', syscall, shown);
  }

  private inodeOf(entry: number): number {
    return this.entries.inode[entry] ?? 0;
  }

  private typeOf(inode: number): number {
    return (this.inodes.mode[inode] ?? 0) & S_IFMT;
  }

  private isDirectory(inode: number): boolean {
    return this.typeOf(inode) === S_IFDIR;
  }

  /** As a file system that allocates in blocks. */
  private allocated(file: number): number {
    const bytes = this.files.extents(file).reduce((sum, { length }) => sum + length, 0);
    return Math.ceil(bytes / BLOCK) * BLOCK;
  }
}

/** Node numbers begin at 1, because some programs take 0 for a missing one. */
const numberOf = (inode: number): bigint => BigInt(inode + 1);

/** Whether a C string is `.` or `..`. */
function isDots(name: Buffer): boolean {
  return name[0] === 0x2e && (name.length === 2 || (name.length === 3 && name[1] === 0x2e));
}

/** A part of a path as a C string. */
function terminated(path: Buffer, start: number, end: number): Buffer {
  const name = Buffer.allocUnsafe(end - start + 1);
  path.copy(name, 0, start, end);
  name[end - start] = 0;
  return name;
}
