import { errnoOf } from '../errno.ts';
import { cString, type FileStatus, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT } from '../system/files.ts';
import { type Checkpoint, NO_CHECKPOINT } from './layer-budget.ts';
import type { LayerTree } from './layer-tree.ts';
import { components, DOT_DOT, joinPath, SLASH } from './paths.ts';

/** Maximum symbolic links on one path: the same as containerd. */
const MAX_LINKS = 255;

/** Maximum steps on one path, including the parts of its links: a few times the longest path, about 50 ms. */
const MAX_STEPS = 16_384;

/** Size of the cache of open directories. Archives are ordered by directory, so a small cache is enough. */
const MAX_OPEN = 128;

/** Maximum evicted descriptors that stay open: twice the size of the cache. */
const MAX_EVICTED = 2 * MAX_OPEN;

/**
 * Maximum bytes of a whole path, including the path of the root: the kernel's limit for one call (PATH_MAX), and so
 * containerd's. Longer paths would be possible with calls relative to a descriptor, but programs that use paths, such
 * as a backup, could not read the files.
 */
const MAX_PATH = 4095;

/** Decides what `Root` does if a directory on a path does not exist. */
export interface MissingDirectories {
  /**
   * Whether a directory is made at the real path `path`. `nothing`: the entry does not need the directory.
   * @param status of a file that is not a directory and would be removed; `undefined` if there is none
   */
  allows(path: string, status: FileStatus | undefined): 'make' | 'refuse' | 'nothing';
  /** A directory is about to be made in the directory `parent`, whose real path is `path`. */
  making(path: string, parent: number): void;
  /** A directory was made at the real path `path`, as `name` in `parent`, for an entry inside it. */
  made(path: string, parent: number, name: Buffer): void;
}

export interface RootOptions {
  /** Whether `openDirectoryInRoot` of the tree is used before a path is walked. Default: true. */
  readonly useOpenat2?: boolean;
  readonly checkpoint?: Checkpoint | undefined;
}

/** A name in an open directory. */
export interface Place {
  readonly parent: number;
  /** A C string. It is not a symbolic link. */
  readonly name: Buffer;
  readonly status: FileStatus;
}

/**
 * Resolves paths inside a tree as if its root were `/`, including absolute links and `..` (as RESOLVE_IN_ROOT of openat2(2)
 * does). No path leads out of it, whatever the archive or another process puts on the way. Callers get an open directory
 * and a last name, and must use calls that do not follow the last name.
 *
 * Open directories are cached by path. A descriptor belongs to the directory and not to its path, so it stays valid
 * when something is renamed or replaced. `removeAll` evicts all descriptors when it removes a directory or a link,
 * because paths can lead to other places after a removal. An evicted descriptor stays open until at least `MAX_OPEN`
 * others were evicted after it: the caller can still use it, and another thread could get the same descriptor number.
 */
export class Root {
  readonly tree: LayerTree;
  private readonly cache = new Map<string, number>();
  /** The result of the last call: archives are ordered by directory. */
  private lastPath: Buffer | undefined;
  private lastFd = -1;
  /** Evicted descriptors that are not closed yet, oldest first. */
  private readonly evicted: number[] = [];
  private readonly useOpenat2: boolean;
  private readonly checkpoint: Checkpoint;
  /** Number of evictions. As long as it does not change, the descriptor of a path stays the same. */
  evictions = 0;

  /** @param tree disposed together with this object */
  constructor(tree: LayerTree, options: RootOptions = {}) {
    this.tree = tree;
    this.useOpenat2 = options.useOpenat2 ?? true;
    this.checkpoint = options.checkpoint ?? NO_CHECKPOINT;
  }

  [Symbol.dispose](): void {
    this.evict();
    for (const fd of this.evicted) this.tree.close(fd);
    this.tree[Symbol.dispose]();
  }

  /** Evicts all descriptors from the cache. */
  private evict(): void {
    this.evictions++;
    this.lastPath = undefined;
    this.evicted.push(...this.cache.values());
    this.cache.clear();
    for (const fd of this.evicted.splice(0, this.evicted.length - MAX_EVICTED)) this.tree.close(fd);
  }

  /** The path of an open directory below the root, without links; bytes as latin1. */
  realPath(fd: number): string {
    return fd === this.tree.root ? '' : this.tree.realPath(fd);
  }

  /** The real path of a name in an open directory. The name does not need to exist. @param name a C string */
  realPathOf(parent: number, name: Buffer): string {
    const above = this.realPath(parent);
    const last = name.toString('latin1', 0, name.length - 1);
    return above === '' ? last : `${above}/${last}`;
  }

  /** Whether the whole path is short enough for a system call. @param length the length of the path below the root */
  private isReachable(length: number): boolean {
    return this.tree.pathLength + 1 + length <= MAX_PATH;
  }

  /**
   * Opens the directory at `path` (clean, relative, `""` for the root).
   * @param missing if given, missing directories are made
   * @throws system errors: ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG…
   */
  directory(path: Buffer, missing?: MissingDirectories): number {
    const fd = this.neededDirectory(path, missing);
    if (fd === undefined) throw systemFailure('ENOENT', 'not a directory', path);
    return fd;
  }

  /** As `directory`, but `undefined` if `missing` answers `nothing`. */
  neededDirectory(path: Buffer, missing: MissingDirectories | undefined): number | undefined {
    if (path.length === 0) return this.tree.root;
    if (this.lastPath?.equals(path)) return this.lastFd;
    const key = path.toString('latin1');
    let fd = this.cache.get(key);
    if (fd === undefined) {
      if (this.cache.size >= MAX_OPEN) this.evict();
      fd = this.open(path, missing);
      if (fd === undefined) return undefined;
      this.cache.set(key, fd);
    }
    this.lastPath = Buffer.from(path);
    this.lastFd = fd;
    return fd;
  }

  /**
   * Resolves `path` (relative) and follows its last name too, if it is a symbolic link.
   * @returns `undefined` if the last name does not exist
   * @throws system errors as `directory`
   */
  resolve(path: Buffer): Place | undefined {
    let rest = path;
    for (let links = 0; links <= MAX_LINKS; links++) {
      const parts = components(rest);
      const name = parts.pop();
      if (name === undefined || name.equals(DOT_DOT)) {
        const parent = this.directory(rest);
        return { parent, name: cString('.'), status: this.tree.statFd(parent) };
      }
      const parent = this.directory(joinPath(parts));
      const cName = cString(name);
      const status = this.tree.statAt(parent, cName);
      if (status === undefined) return undefined;
      if ((status.mode & S_IFMT) !== S_IFLNK) return { parent, name: cName, status };
      const target = this.tree.readlinkAt(parent, cName);
      rest =
        target[0] === SLASH ? target : Buffer.from(`${this.realPath(parent)}/${target.toString('latin1')}`, 'latin1');
    }
    return undefined;
  }

  /** The real path of the directory at `path`, both bytes as latin1; `undefined` if there is none. */
  whereTo(path: string): string | undefined {
    this.checkpoint();
    try {
      return this.realPath(this.directory(Buffer.from(path, 'latin1')));
    } catch (error) {
      if (isMissingPath(error)) return undefined;
      throw error;
    }
  }

  private open(path: Buffer, missing: MissingDirectories | undefined): number | undefined {
    if (this.useOpenat2 && this.isReachable(path.length)) {
      try {
        const fd = this.tree.openDirectoryInRoot(path);
        if (fd !== undefined) return fd;
      } catch (error) {
        const code = errnoOf(error);
        if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
      }
    }
    return this.walk(path, missing);
  }

  /**
   * The same resolution, one name at a time. `walk` is used for paths with more links than the kernel follows, for
   * paths with missing directories, and on kernels without openat2. After a missing name or a file, `..` removes that
   * name, as in containerd; the kernel returns an error instead. Targets of links can contain such paths.
   */
  private walk(path: Buffer, missing: MissingDirectories | undefined): number | undefined {
    const { tree } = this;
    const open: number[] = [];
    const names: string[] = [];
    /** The names after `names`. The first of them is missing or not a directory, so the others are missing, too. */
    const absent: Absent[] = [];
    /** Length of the real path so far, including `absent`. */
    let length = 0;
    /** Remaining parts, the next one last. */
    const rest = components(path).reverse();
    let links = 0;
    let steps = 0;
    try {
      for (let name = rest.pop(); name !== undefined; name = rest.pop()) {
        steps++;
        this.checkpoint();
        if (steps > MAX_STEPS) throw systemFailure('ELOOP', 'too many directories on the path', path);
        if (name.equals(DOT_DOT)) {
          const absentName = absent.pop()?.name;
          const left = absentName === undefined ? open.pop() : undefined;
          if (left !== undefined) tree.close(left);
          length -= ((absentName ?? names.pop())?.length ?? -1) + 1;
          continue;
        }
        const parent = open.at(-1) ?? tree.root;
        const cName = cString(name);
        const [first] = absent;
        if (
          first?.status !== undefined &&
          (missing?.allows(joined(names, first.name), first.status) ?? 'refuse') === 'refuse'
        ) {
          throw systemFailure('ENOTDIR', 'a file is in the way of a directory', path);
        }
        const status = first === undefined ? tree.statAt(parent, cName) : undefined;
        if (status !== undefined && (status.mode & S_IFMT) === S_IFLNK) {
          links++;
          if (links > MAX_LINKS) throw systemFailure('ELOOP', 'too many symbolic links on the path', path);
          const target = tree.readlinkAt(parent, cName);
          if (target[0] === SLASH) {
            for (const fd of open.splice(0)) tree.close(fd);
            names.length = 0;
            length = 0;
          }
          rest.push(...components(target).reverse());
          continue;
        }
        length += name.length + 1;
        if (!this.isReachable(length - 1)) throw systemFailure('ENAMETOOLONG', 'the whole path is too long', path);
        if (status === undefined || (status.mode & S_IFMT) !== S_IFDIR) {
          absent.push({ name: name.toString('latin1'), status });
          continue;
        }
        open.push(tree.openDirectory(parent, cName));
        names.push(name.toString('latin1'));
      }
      for (const { name, status } of absent) {
        if (missing === undefined) {
          throw systemFailure(status === undefined ? 'ENOENT' : 'ENOTDIR', 'not a directory', path);
        }
        const parent = open.at(-1) ?? tree.root;
        const cName = cString(Buffer.from(name, 'latin1'));
        if (!this.make(parent, cName, status, names, missing)) return undefined;
        open.push(tree.openDirectory(parent, cName));
        names.push(name);
      }
      // returns a second descriptor of the root, because the cache closes its descriptors
      return open.pop() ?? tree.openDirectory(tree.root, cString('.'));
    } finally {
      for (const fd of open) tree.close(fd);
    }
  }

  /**
   * Makes a directory in `parent`, whose real path is `above`.
   * @returns false if the entry does not need the directory
   */
  private make(
    parent: number,
    name: Buffer,
    status: FileStatus | undefined,
    above: readonly string[],
    missing: MissingDirectories,
  ): boolean {
    const real = joined(above, name.toString('latin1', 0, name.length - 1));
    const allowed = missing.allows(real, status);
    if (allowed === 'nothing') return false;
    if (allowed === 'refuse') {
      throw systemFailure('ENOTDIR', 'a file is in the way of a directory', Buffer.from(real, 'latin1'));
    }
    missing.making(above.join('/'), parent);
    if (status !== undefined) this.tree.unlinkAt(parent, name);
    this.tree.mkdirAt(parent, name, 0o755);
    missing.made(real, parent, name);
    return true;
  }

  /**
   * Removes `name` in `parent`, with all its content. Links are removed and never followed.
   * @param onRemoved called with the inode of every removed directory
   * @returns whether the removed name was a directory or a link, so that other paths can lead to another place now
   */
  removeAll(parent: number, name: Buffer, onRemoved?: (inode: bigint) => void): boolean {
    const status = this.tree.statAt(parent, name);
    if (status === undefined) return false;
    const type = status.mode & S_IFMT;
    if (type === S_IFDIR) this.tree.removeDirectory(parent, name, this.checkpoint, onRemoved);
    else this.tree.unlinkAt(parent, name);
    if (type !== S_IFDIR && type !== S_IFLNK) return false;
    this.evict();
    return true;
  }

  /** All names in an open directory, as C strings. */
  list(fd: number): Buffer[] {
    return this.tree.list(fd, this.checkpoint);
  }
}

interface Absent {
  readonly name: string;
  readonly status: FileStatus | undefined;
}

const joined = (names: readonly string[], last: string): string => [...names, last].join('/');

/** Whether it is a character device 0:0: a deleted name in the upper directory of an overlay. */
export function isOverlayWhiteout(status: FileStatus): boolean {
  return (status.mode & S_IFMT) === S_IFCHR && status.major === 0 && status.minor === 0;
}

const NO_SUCH_PATH = new Set(['ENOENT', 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG']);

/** Whether the error means that a path does not lead to a directory. All other errors are failures of the machine. */
export function isMissingPath(error: unknown): boolean {
  return NO_SUCH_PATH.has(errnoOf(error) ?? '');
}

function systemFailure(code: string, what: string, path: Buffer): NodeJS.ErrnoException {
  const shown = path.toString('utf8', 0, 200);
  return Object.assign(new Error(`${code}: ${what}, ${JSON.stringify(shown)}`), { code, path: shown });
}
