import { closeSync, constants, openSync } from 'node:fs';
import type { Creator, LayerTree } from '../diff/layer-tree.ts';
import { type FileStatus, S_IFDIR, S_IFLNK, S_IFMT } from '../system/files.ts';
import { ImageReader } from './image-reader.ts';
import { kernelError } from './kernel-error.ts';

/** More directories than a path can have (PATH_MAX). A damaged image can have a circle. */
const MAX_DEPTH = 4096;

/**
 * The tree of an image, read without a mount, so that the rules of `src/diff` find directories of the layers below in it. A
 * handle is the number of an inode. Nothing can be changed.
 */
export class ImageTree implements LayerTree {
  readonly root: number;
  readonly pathLength = 0;
  readonly creator: Creator = { uid: 0, gid: 0, umask: 0 };
  readonly #fd: number;
  readonly #reader: ImageReader;

  /** @throws UnpackError STORE_FAILED if the file is damaged; system errors */
  constructor(path: string) {
    this.#fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      this.#reader = new ImageReader(this.#fd, path);
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
    this.root = this.#reader.root;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  openDirectory(dir: number, name: Buffer): number {
    const nid = this.#lookup(dir, name, 'openat');
    if (nid === undefined) throw kernelError('ENOENT', 'openat', name);
    if (this.#type(nid) !== S_IFDIR) throw kernelError('ENOTDIR', 'openat', name);
    return nid;
  }

  /** Each path is walked by `Root`. */
  openDirectoryInRoot(): undefined {
    return undefined;
  }

  realPath(dir: number): string {
    const names: string[] = [];
    for (let at = dir; at !== this.root; ) {
      if (names.length > MAX_DEPTH) throw kernelError('ENAMETOOLONG', 'readlinkat');
      const above = this.#reader.parent(at);
      for (const { name, nid } of this.#reader.entries(above)) {
        if (nid !== at) continue;
        names.push(name.toString('latin1'));
        break;
      }
      at = above;
    }
    return names.reverse().join('/');
  }

  list(dir: number, step: () => void): Buffer[] {
    return Array.from(this.#reader.entries(dir), ({ name }) => {
      step();
      return Buffer.concat([name, Buffer.of(0)]);
    });
  }

  statAt(dir: number, name: Buffer): FileStatus | undefined {
    const nid = this.#lookup(dir, name, 'statx');
    return nid === undefined ? undefined : this.#reader.status(nid);
  }

  statFd(handle: number): FileStatus {
    return this.#reader.status(handle);
  }

  readlinkAt(dir: number, name: Buffer): Buffer {
    const nid = this.#lookup(dir, name, 'readlinkat');
    if (nid === undefined) throw kernelError('ENOENT', 'readlinkat', name);
    if (this.#type(nid) !== S_IFLNK) throw kernelError('EINVAL', 'readlinkat', name);
    return Buffer.from(this.#reader.target(nid));
  }

  hasXattr(dir: number, key: Buffer): boolean {
    return this.#reader.xattrs(dir).has(key.toString('latin1', 0, key.length - 1));
  }

  xattrs(dir: number): Map<string, Buffer> {
    return this.#reader.xattrs(dir);
  }

  close(): void {}

  hasRoom(): boolean {
    return true;
  }

  createFile(): never {
    return refuse('openat');
  }
  write(): never {
    return refuse('write');
  }
  truncate(): never {
    return refuse('ftruncate');
  }
  mkdirAt(): never {
    return refuse('mkdirat');
  }
  symlinkAt(): never {
    return refuse('symlinkat');
  }
  linkAt(): never {
    return refuse('linkat');
  }
  mknodAt(): never {
    return refuse('mknodat');
  }
  unlinkAt(): never {
    return refuse('unlinkat');
  }
  removeDirectory(): never {
    return refuse('unlinkat');
  }
  chownAt(): never {
    return refuse('fchownat');
  }
  chownFd(): never {
    return refuse('fchown');
  }
  chmodAt(): never {
    return refuse('fchmodat');
  }
  chmodFd(): never {
    return refuse('fchmod');
  }
  utimensAt(): never {
    return refuse('utimensat');
  }
  utimensFd(): never {
    return refuse('futimens');
  }
  setXattrAt(): never {
    return refuse('lsetxattr');
  }
  setXattrFd(): never {
    return refuse('fsetxattr');
  }

  #lookup(dir: number, name: Buffer, syscall: string): number | undefined {
    if (this.#type(dir) !== S_IFDIR) throw kernelError('ENOTDIR', syscall, name);
    // `.` and `..` are entries, too
    return this.#reader.find(dir, name.subarray(0, -1));
  }

  #type(nid: number): number {
    return this.#reader.status(nid).mode & S_IFMT;
  }
}

function refuse(syscall: string): never {
  throw kernelError('EROFS', syscall);
}
