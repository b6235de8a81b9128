import { errnoOf } from '../errno.ts';
import { namesIn } from '../system/directory-calls.ts';
import {
  AT_FDCWD,
  close,
  cString,
  descriptorPath,
  type FileStatus,
  mkdirAt,
  O,
  openAt,
  openDirectoryInRoot,
  readlinkAt,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  statAt,
  statFd,
  unlinkAt,
} from '../system/files.ts';
import { removeDirectoryAt } from '../system/remove-tree.ts';
import { type Checkpoint, NO_CHECKPOINT } from './layer-budget.ts';
import { components, DOT_DOT, joinPath, SLASH } from './paths.ts';

/** As many links as one path may go through; as many as containerd follows. */
const MAX_LINKS = 255;

/** Parts that one path may be walked through, those of its links included: a few times the longest path, some 50 ms. */
const MAX_STEPS = 16_384;

/** Descriptors kept open: archives come folder by folder, so few are enough. */
const MAX_OPEN = 128;

/** Descriptors of dropped answers that stay open; more than twice as many as one drop can make of them. */
const MAX_LINGERING = 2 * MAX_OPEN;

/**
 * Bytes of a whole path, the root's own included: what the kernel takes in one call (PATH_MAX), and containerd with it.
 * Calls relative to a descriptor would go deeper, to where nothing that takes a path could follow: no copy, no backup.
 */
const MAX_PATH = 4095;

/** What `Root` asks when something that is no directory stands where a directory is needed. */
export interface MissingDirectories {
  /**
   * Whether a directory is made at the real path `path`, where nothing is or what `status` says, which is removed then;
   * `nothing`: the entry needs none, since it has nothing to say there.
   */
  allows(path: string, status: FileStatus | undefined): 'make' | 'refuse' | 'nothing';
  /** A directory is about to be made in the directory `parent`, which is at the real path `path`. */
  making(path: string, parent: number): void;
  /** A directory was made at the real path `path`, which is `name` in `parent`, for an entry inside it. */
  made(path: string, parent: number, name: Buffer): void;
}

/** A name in an open directory. */
export interface Place {
  readonly parent: number;
  /** A C string; no link. */
  readonly name: Buffer;
  readonly status: FileStatus;
}

/**
 * A directory that nothing gets out of: every path given to it is resolved as if it were `/`, absolute links and `..`
 * included (as openat2's RESOLVE_IN_ROOT does it), whatever the archive or another process puts in the way. Callers get
 * an open directory and a last name, and must use calls that do not follow that last name.
 *
 * The descriptors stay valid when something is renamed or replaced: they stand for the directory, not for its path.
 * What they must not outlive is a change of the path's meaning, so `removeAll` drops them with a directory or a link.
 * A descriptor that was given out is closed a hundred answers later at the earliest, and never by `removeAll`: its number
 * would be another thread's next file.
 */
export class Root {
  readonly fd: number;
  private readonly cache = new Map<string, number>();
  /** The answer before: archives come folder by folder. */
  private lastPath: Buffer | undefined;
  private lastFd = -1;
  /** Dropped descriptors that are not closed yet, oldest first. */
  private readonly lingering: number[] = [];
  private readonly useOpenat2: boolean;
  private readonly checkpoint: Checkpoint;
  private real: string | undefined;
  /** How often descriptors were dropped: as long as this stays, one that was given out stands for the same directory. */
  drops = 0;

  /** @param path an absolute path; links in it are followed here, and only here */
  constructor(path: string, options: { useOpenat2?: boolean; checkpoint?: Checkpoint | undefined } = {}) {
    this.fd = openAt(AT_FDCWD, cString(path), O.RDONLY | O.DIRECTORY);
    this.useOpenat2 = options.useOpenat2 ?? true;
    this.checkpoint = options.checkpoint ?? NO_CHECKPOINT;
  }

  [Symbol.dispose](): void {
    this.forget();
    for (const fd of this.lingering) close(fd);
    close(this.fd);
  }

  /** Drops what was learned about paths. */
  private forget(): void {
    this.drops++;
    this.lastPath = undefined;
    this.lingering.push(...this.cache.values());
    this.cache.clear();
    for (const fd of this.lingering.splice(0, this.lingering.length - MAX_LINGERING)) close(fd);
  }

  /** Where an open directory is below the root, without links; bytes as latin1. */
  realPath(fd: number): string {
    if (fd === this.fd) return '';
    const path = readlinkAt(AT_FDCWD, descriptorPath(fd)).toString('latin1');
    return path.slice(this.ownPath.length + 1);
  }

  /** The same of a name in an open directory, be there anything or not. @param name a C string */
  realPathOf(parent: number, name: Buffer): string {
    const above = this.realPath(parent);
    const last = name.toString('latin1', 0, name.length - 1);
    return above === '' ? last : `${above}/${last}`;
  }

  private get ownPath(): string {
    this.real ??= readlinkAt(AT_FDCWD, descriptorPath(this.fd)).toString('latin1');
    return this.real;
  }

  /** Whether a directory at a real path below the root is one that calls with whole paths can reach. */
  private isReachable(length: number): boolean {
    return this.ownPath.length + 1 + length <= MAX_PATH;
  }

  /**
   * The directory at `path` (cleaned, relative, `""` for the root itself), made where it is missing if `missing` is given.
   * @throws a system error ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG…
   */
  directory(path: Buffer, missing?: MissingDirectories): number {
    const fd = this.neededDirectory(path, missing);
    if (fd === undefined) throw systemFailure('ENOENT', 'not a directory', path);
    return fd;
  }

  /** The same; `undefined` where `missing` says that nothing is needed. */
  neededDirectory(path: Buffer, missing: MissingDirectories | undefined): number | undefined {
    if (path.length === 0) return this.fd;
    if (this.lastPath?.equals(path)) return this.lastFd;
    const key = path.toString('latin1');
    let fd = this.cache.get(key);
    if (fd === undefined) {
      if (this.cache.size >= MAX_OPEN) this.forget();
      fd = this.open(path, missing);
      if (fd === undefined) return undefined;
      this.cache.set(key, fd);
    }
    this.lastPath = Buffer.from(path);
    this.lastFd = fd;
    return fd;
  }

  /**
   * What `path` (relative) leads to, its last link followed too; `undefined` where that is nothing.
   * @throws as `directory`
   */
  resolve(path: Buffer): Place | undefined {
    let rest = path;
    for (let links = 0; links <= MAX_LINKS; links++) {
      const parts = components(rest);
      const name = parts.pop();
      if (name === undefined || name.equals(DOT_DOT)) {
        const parent = this.directory(rest);
        return { parent, name: cString('.'), status: statFd(parent) };
      }
      const parent = this.directory(joinPath(parts));
      const cName = cString(name);
      const status = statAt(parent, cName);
      if (status === undefined) return undefined;
      if ((status.mode & S_IFMT) !== S_IFLNK) return { parent, name: cName, status };
      const target = readlinkAt(parent, cName);
      rest =
        target[0] === SLASH ? target : Buffer.from(`${this.realPath(parent)}/${target.toString('latin1')}`, 'latin1');
    }
    return undefined;
  }

  /** The real path of the directory that a path leads to, bytes as latin1 in both; `undefined`: it leads to none. */
  whereTo(path: string): string | undefined {
    this.checkpoint();
    try {
      return this.realPath(this.directory(Buffer.from(path, 'latin1')));
    } catch (error) {
      if (leadsNowhere(error)) return undefined;
      throw error;
    }
  }

  private open(path: Buffer, missing: MissingDirectories | undefined): number | undefined {
    if (this.useOpenat2 && this.isReachable(path.length)) {
      try {
        const fd = openDirectoryInRoot(this.fd, cString(path));
        if (fd !== undefined) return fd;
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
      }
    }
    return this.walk(path, missing);
  }

  /**
   * The same resolution a step at a time: for paths through links, of which the kernel follows fewer, for paths that are
   * to be made, and for kernels without openat2. Other than for the kernel, `..` takes away the name before it where
   * that is missing, or a file (a link's target may say so), as it does for containerd.
   */
  private walk(path: Buffer, missing: MissingDirectories | undefined): number | undefined {
    const open: number[] = [];
    const names: string[] = [];
    /** What follows `names` and is not there: a name that is missing or no directory, and names that would be in it. */
    const absent: Absent[] = [];
    /** Of the real path so far, with what is absent. */
    let length = 0;
    /** What is still to be walked, next part last. */
    const rest = components(path).reverse();
    let links = 0;
    let steps = 0;
    try {
      for (let name = rest.pop(); name !== undefined; name = rest.pop()) {
        steps++;
        this.checkpoint();
        if (steps > MAX_STEPS) throw systemFailure('ELOOP', 'too many directories on the way', path);
        if (name.equals(DOT_DOT)) {
          const absentName = absent.pop()?.name;
          const left = absentName === undefined ? open.pop() : undefined;
          if (left !== undefined) close(left);
          length -= ((absentName ?? names.pop())?.length ?? -1) + 1;
          continue;
        }
        const parent = open.at(-1) ?? this.fd;
        const cName = cString(name);
        const [first] = absent;
        if (
          first?.status !== undefined &&
          (missing?.allows(joined(names, first.name), first.status) ?? 'refuse') === 'refuse'
        ) {
          throw systemFailure('ENOTDIR', 'a file is in the way of a directory', path);
        }
        const status = first === undefined ? statAt(parent, cName) : undefined;
        if (status !== undefined && (status.mode & S_IFMT) === S_IFLNK) {
          links++;
          if (links > MAX_LINKS) throw systemFailure('ELOOP', 'too many links on the way', path);
          const target = readlinkAt(parent, cName);
          if (target[0] === SLASH) {
            for (const fd of open.splice(0)) close(fd);
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
        open.push(openAt(parent, cName, O.PATH | O.DIRECTORY | O.NOFOLLOW));
        names.push(name.toString('latin1'));
      }
      for (const { name, status } of absent) {
        if (missing === undefined) {
          throw systemFailure(status === undefined ? 'ENOENT' : 'ENOTDIR', 'not a directory', path);
        }
        const parent = open.at(-1) ?? this.fd;
        const cName = cString(Buffer.from(name, 'latin1'));
        if (!this.make(parent, cName, status, names, missing)) return undefined;
        open.push(openAt(parent, cName, O.PATH | O.DIRECTORY | O.NOFOLLOW));
        names.push(name);
      }
      // the root itself is cached under its path like the others, and closed like them
      return open.pop() ?? openAt(this.fd, cString('.'), O.PATH | O.DIRECTORY);
    } finally {
      for (const fd of open) close(fd);
    }
  }

  /** Makes a directory in the one that is at the real path `above`. @returns whether it is needed */
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
    if (status !== undefined) unlinkAt(parent, name);
    mkdirAt(parent, name, 0o755);
    missing.made(real, parent, name);
    return true;
  }

  /**
   * Removes whatever `name` in `parent` is, with all that it holds; links are removed, never followed.
   * @param gone is told of every directory that goes
   * @returns whether paths that led somewhere may lead elsewhere now: it was a directory or a link
   */
  removeAll(parent: number, name: Buffer, gone?: (inode: bigint) => void): boolean {
    const status = statAt(parent, name);
    if (status === undefined) return false;
    const type = status.mode & S_IFMT;
    if (type === S_IFDIR) removeDirectoryAt(parent, name, this.checkpoint, gone);
    else unlinkAt(parent, name);
    if (type !== S_IFDIR && type !== S_IFLNK) return false;
    this.forget();
    return true;
  }

  /** The names in an open directory, as C strings; all are read before the first is given out. */
  list(fd: number): Buffer[] {
    return namesIn(fd, this.checkpoint).map(({ name }) => name);
  }
}

interface Absent {
  readonly name: string;
  readonly status: FileStatus | undefined;
}

const joined = (names: readonly string[], last: string): string => [...names, last].join('/');

/** The character device 0:0 that stands for a deleted name in an overlay's upper directory. */
export function isOverlayWhiteout(status: FileStatus): boolean {
  return (status.mode & S_IFMT) === S_IFCHR && status.major === 0 && status.minor === 0;
}

const NOWHERE = new Set(['ENOENT', 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG']);

/** Whether a path failed for what is, or is not, on its way; anything else is the machine's own failure. */
export function leadsNowhere(error: unknown): boolean {
  return NOWHERE.has(errnoOf(error) ?? '');
}

function systemFailure(code: string, what: string, path: Buffer): NodeJS.ErrnoException {
  const shown = path.toString('utf8', 0, 200);
  return Object.assign(new Error(`${code}: ${what}, ${JSON.stringify(shown)}`), { code, path: shown });
}
