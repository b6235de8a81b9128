import type { FileStatus, Timespec } from '../system/files.ts';

/**
 * The tree that a layer is written to, at the level of the kernel's calls. The rules of this folder decide what a layer
 * becomes, and they change and read the tree by these methods only. `KernelTree` is a directory of the kernel.
 *
 * A handle is an open file or an open directory. A name is a C string, one component of a path: a name of the directory,
 * `.` or `..`. No method follows a symbolic link at the name. A method that fails throws a system error with `code` and
 * `syscall`, as the kernel's call of the same name. `…At` means a name in an open directory, `…Fd` an open file or directory.
 */
export interface LayerTree extends Disposable {
  /** The handle of the root directory. It is open until the tree is disposed. */
  readonly root: number;
  /** The length of the path that leads to the root, in bytes: it counts for the longest path (PATH_MAX). */
  readonly pathLength: number;
  readonly creator: Creator;

  /** Creates an empty file and opens it for writing. @throws EEXIST if the name exists, whatever it is */
  createFile(dir: number, name: Buffer, mode: number): number;
  /**
   * Writes all bytes into a file.
   * @param position where they begin in the file
   * @param offset where they begin in the tar: a tree that leaves contents in the tar keeps this instead of the bytes
   */
  write(file: number, bytes: Buffer, position: number, offset: number): void;
  /** Sets the size of a file in bytes. What was never written is a hole. */
  truncate(file: number, size: number): void;
  close(handle: number): void;

  mkdirAt(dir: number, name: Buffer, mode: number): void;
  symlinkAt(target: Buffer, dir: number, name: Buffer): void;
  /** If `oldName` is a symbolic link, the link itself gets the new name. */
  linkAt(oldDir: number, oldName: Buffer, newDir: number, newName: Buffer): void;
  /** @param mode the type (device or FIFO) and the permission bits @param device as `makeDevice` returns it */
  mknodAt(dir: number, name: Buffer, mode: number, device: number): void;
  unlinkAt(dir: number, name: Buffer): void;
  /**
   * Removes a directory with all its content.
   * @param step called before each change, and can throw to stop
   * @param gone called with the inode of each removed directory
   */
  removeDirectory(dir: number, name: Buffer, step: () => void, gone?: (inode: bigint) => void): void;

  /** Opens a directory. @throws ENOTDIR if the name is no directory, also if it is a symbolic link to one */
  openDirectory(dir: number, name: Buffer): number;
  /**
   * Opens the directory at a path below the root, as if the root were `/`, in one step.
   * @returns `undefined` if that is not possible, for example because of a symbolic link: walk the path instead
   * @throws ENOENT or ENOTDIR if the path does not lead to a directory; other system errors
   */
  openDirectoryInRoot(path: Buffer): number | undefined;
  /** The path of an open directory below the root, without links; bytes as latin1. */
  realPath(dir: number): string;
  /** All names in an open directory, as C strings. @param step called now and then, and can throw to stop */
  list(dir: number, step: () => void): Buffer[];

  /** `undefined` if the name does not exist. */
  statAt(dir: number, name: Buffer): FileStatus | undefined;
  statFd(handle: number): FileStatus;
  readlinkAt(dir: number, name: Buffer): Buffer;

  chownAt(dir: number, name: Buffer, uid: number, gid: number): void;
  chownFd(file: number, uid: number, gid: number): void;
  chmodAt(dir: number, name: Buffer, mode: number): void;
  chmodFd(file: number, mode: number): void;
  utimensAt(dir: number, name: Buffer, atime: Timespec, mtime: Timespec): void;
  utimensFd(file: number, atime: Timespec, mtime: Timespec): void;

  /** @param key a C string, as the names of extended attributes everywhere here */
  setXattrAt(dir: number, name: Buffer, key: Buffer, value: Uint8Array): void;
  setXattrFd(file: number, key: Buffer, value: Uint8Array): void;
  /** Whether an open directory has an extended attribute. Also true if the attribute cannot be read. */
  hasXattr(dir: number, key: Buffer): boolean;
  /** The extended attributes of an open directory, by name (bytes as latin1). */
  xattrs(dir: number): Map<string, Buffer>;

  /** Whether there is space for the extended attributes of a file, so that ENOSPC does not mean a full disk. */
  hasRoom(): boolean;
}

/** Who creates the files of a tree: they get this owner, and not the mode bits of the umask. */
export interface Creator {
  readonly uid: number;
  readonly gid: number;
  readonly umask: number;
}
