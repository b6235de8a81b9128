import { ftruncateSync, writeSync } from 'node:fs';
import { namesIn } from '../system/directory-calls.ts';
import {
  AT_FDCWD,
  chmodAt,
  chmodFd,
  chownAt,
  chownFd,
  close,
  cString,
  descriptorPath,
  hasXattrOfPathFd,
  linkAt,
  mkdirAt,
  mknodAt,
  O,
  openAt,
  openDirectoryInRoot,
  readlinkAt,
  setXattrAt,
  setXattrFd,
  statAt,
  statFd,
  symlinkAt,
  unlinkAt,
  utimensAt,
  utimensFd,
  xattrsOfPathFd,
} from '../system/files.ts';
import { removeDirectoryAt } from '../system/remove-tree.ts';
import { hasRoom } from '../system/space.ts';
import type { Creator, LayerTree } from './layer-tree.ts';

const NEW_FILE = O.WRONLY | O.CREAT | O.EXCL | O.NOFOLLOW;

/** A directory of the kernel, as the tree that a layer is written to. Handles are file descriptors. */
export class KernelTree implements LayerTree {
  readonly root: number;
  readonly creator: Creator = {
    uid: process.geteuid?.() ?? -1,
    gid: process.getegid?.() ?? -1,
    umask: process.umask(),
  };
  private readonly path: string;
  /** The path of the root without links; read when it is needed. */
  private real: string | undefined;

  readonly close = close;
  readonly mkdirAt = mkdirAt;
  readonly symlinkAt = symlinkAt;
  readonly linkAt = linkAt;
  readonly mknodAt = mknodAt;
  readonly unlinkAt = unlinkAt;
  readonly removeDirectory = removeDirectoryAt;
  readonly statAt = statAt;
  readonly statFd = statFd;
  readonly readlinkAt = readlinkAt;
  readonly chownAt = chownAt;
  readonly chownFd = chownFd;
  readonly chmodAt = chmodAt;
  readonly chmodFd = chmodFd;
  readonly utimensAt = utimensAt;
  readonly utimensFd = utimensFd;
  readonly setXattrAt = setXattrAt;
  readonly setXattrFd = setXattrFd;
  readonly hasXattr = hasXattrOfPathFd;
  readonly xattrs = xattrsOfPathFd;

  /** @param path an absolute path; symbolic links in this path are followed @throws system errors */
  constructor(path: string) {
    this.path = path;
    this.root = openAt(AT_FDCWD, cString(path), O.RDONLY | O.DIRECTORY);
  }

  [Symbol.dispose](): void {
    close(this.root);
  }

  get pathLength(): number {
    return this.realRoot.length;
  }

  createFile(dir: number, name: Buffer, mode: number): number {
    return openAt(dir, name, NEW_FILE, mode);
  }

  write(file: number, bytes: Buffer, position: number): void {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(file, bytes, done, bytes.length - done, position + done);
    }
  }

  truncate(file: number, size: number): void {
    ftruncateSync(file, size);
  }

  openDirectory(dir: number, name: Buffer): number {
    return openAt(dir, name, O.PATH | O.DIRECTORY | O.NOFOLLOW);
  }

  openDirectoryInRoot(path: Buffer): number | undefined {
    return openDirectoryInRoot(this.root, cString(path));
  }

  realPath(dir: number): string {
    return readlinkAt(AT_FDCWD, descriptorPath(dir))
      .toString('latin1')
      .slice(this.realRoot.length + 1);
  }

  list(dir: number, step: () => void): Buffer[] {
    return namesIn(dir, step).map(({ name }) => name);
  }

  hasRoom(): boolean {
    return hasRoom(this.path);
  }

  private get realRoot(): string {
    this.real ??= readlinkAt(AT_FDCWD, descriptorPath(this.root)).toString('latin1');
    return this.real;
  }
}
