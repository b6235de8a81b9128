import { readdirSync } from 'node:fs';
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
  rmdirAt,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  statAt,
  statFd,
  unlinkAt,
} from '../system/files.ts';

/** As many links as one path may go through; as many as containerd follows. */
const MAX_LINKS = 255;

/** Descriptors kept open: archives come folder by folder, so few are enough. */
const MAX_OPEN = 128;

const SLASH = 0x2f;
const DOT_DOT = Buffer.from('..');

/** A directory that an entry needed before any entry named it. */
export interface ImpliedDirectory {
  /** Its real path below the root, without links, bytes as latin1. */
  readonly path: string;
  readonly inode: bigint;
  /** A later entry has named it: its attributes are that entry's, but for extended ones that only the layers below give. */
  readonly named: boolean;
  /** No entry had named the directory above either when this one was made in it. */
  readonly inUnnamed: boolean;
}

/** What `Root` asks when something that is no directory stands where a directory is needed. */
export interface MissingDirectories {
  /** Whether `name` in `parent`, which is `status`, may be removed to make room for a directory. */
  replaces(parent: number, name: Buffer, status: FileStatus): boolean;
  /** A directory was made at `path` for an entry inside it; `replaced` says that something was removed for it. */
  made(path: string, parent: number, name: Buffer, replaced: boolean): void;
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
 * A descriptor is good until the next call of `directory`.
 */
export class Root {
  readonly fd: number;
  private readonly cache = new Map<string, number>();
  /** The answer before: archives come folder by folder. */
  private lastPath: Buffer | undefined;
  private lastFd = -1;
  /** A descriptor that was in use when the cache was dropped. */
  private kept: number | undefined;
  private readonly useOpenat2: boolean;
  private real: string | undefined;

  /** @param path an absolute path; links in it are followed here, and only here */
  constructor(path: string, options: { useOpenat2?: boolean } = {}) {
    this.fd = openAt(AT_FDCWD, cString(path), O.RDONLY | O.DIRECTORY);
    this.useOpenat2 = options.useOpenat2 ?? true;
  }

  [Symbol.dispose](): void {
    this.forget();
    close(this.fd);
  }

  /** Drops what was learned about paths; the descriptor `inUse`, where it is one of the Root's, stays open until the next time. */
  private forget(inUse?: number): void {
    this.lastPath = undefined;
    const known = [...this.cache.values()];
    if (this.kept !== undefined) known.push(this.kept);
    this.kept = undefined;
    this.cache.clear();
    for (const fd of known) {
      if (fd === inUse) this.kept = fd;
      else close(fd);
    }
  }

  /** Where an open directory is below the root, without links; bytes as latin1. */
  realPath(fd: number): string {
    if (fd === this.fd) return '';
    const path = readlinkAt(AT_FDCWD, descriptorPath(fd)).toString('latin1');
    this.real ??= readlinkAt(AT_FDCWD, descriptorPath(this.fd)).toString('latin1');
    return path.slice(this.real.length + 1);
  }

  /**
   * The directory at `path` (cleaned, relative, `""` for the root itself), made where it is missing if `missing` is given.
   * @param inUse a descriptor of an earlier answer that must stay open
   * @throws a system error ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG…
   */
  directory(path: Buffer, missing?: MissingDirectories, inUse?: number): number {
    if (path.length === 0) return this.fd;
    if (this.lastPath?.equals(path)) return this.lastFd;
    const key = path.toString('latin1');
    let fd = this.cache.get(key);
    if (fd === undefined) {
      if (this.cache.size >= MAX_OPEN) this.forget(inUse);
      fd = this.open(path, missing);
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

  private open(path: Buffer, missing: MissingDirectories | undefined): number {
    if (this.useOpenat2) {
      try {
        const fd = openDirectoryInRoot(this.fd, cString(path));
        if (fd !== undefined) return fd;
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (missing === undefined || (code !== 'ENOENT' && code !== 'ENOTDIR')) throw error;
      }
    }
    return this.walk(path, missing);
  }

  /** The same resolution a step at a time, for kernels without openat2 and for paths that are to be made. */
  private walk(path: Buffer, missing: MissingDirectories | undefined): number {
    const open: number[] = [];
    const names: string[] = [];
    let rest = components(path);
    let links = 0;
    try {
      while (rest.length > 0) {
        const [name, ...later] = rest as [Buffer, ...Buffer[]];
        rest = later;
        if (name.equals(DOT_DOT)) {
          names.pop();
          const left = open.pop();
          if (left !== undefined) close(left);
          continue;
        }
        const parent = open.at(-1) ?? this.fd;
        const cName = cString(name);
        const status = statAt(parent, cName);
        if (status !== undefined && (status.mode & S_IFMT) === S_IFLNK) {
          links++;
          if (links > MAX_LINKS) throw systemFailure('ELOOP', 'too many links on the way', path);
          const target = readlinkAt(parent, cName);
          if (target[0] === SLASH) {
            for (const fd of open.splice(0)) close(fd);
            names.length = 0;
          }
          rest = [...components(target), ...rest];
          continue;
        }
        if (status === undefined || (status.mode & S_IFMT) !== S_IFDIR) {
          if (missing === undefined) {
            throw systemFailure(status === undefined ? 'ENOENT' : 'ENOTDIR', 'not a directory', path);
          }
          const real = [...names, name.toString('latin1')].join('/');
          this.make(parent, cName, status, real, missing);
        }
        open.push(openAt(parent, cName, O.PATH | O.DIRECTORY | O.NOFOLLOW));
        names.push(name.toString('latin1'));
      }
      // the root itself is cached under its path like the others, and closed like them
      return open.pop() ?? openAt(this.fd, cString('.'), O.PATH | O.DIRECTORY);
    } finally {
      for (const fd of open) close(fd);
    }
  }

  private make(
    parent: number,
    name: Buffer,
    status: FileStatus | undefined,
    real: string,
    missing: MissingDirectories,
  ): void {
    if (status !== undefined) {
      if (!missing.replaces(parent, name, status)) {
        throw systemFailure('ENOTDIR', 'a file is in the way of a directory', Buffer.from(real, 'latin1'));
      }
      unlinkAt(parent, name);
    }
    mkdirAt(parent, name, 0o755);
    missing.made(real, parent, name, status !== undefined);
  }

  /** Removes whatever `name` in `parent` is, with all that it holds; links are removed, never followed. */
  removeAll(parent: number, name: Buffer): void {
    const status = statAt(parent, name);
    if (status === undefined) return;
    const type = status.mode & S_IFMT;
    if (type === S_IFDIR) removeTree(parent, name);
    else unlinkAt(parent, name);
    if (type === S_IFDIR || type === S_IFLNK) this.forget(parent);
  }
}

function removeTree(parent: number, name: Buffer): void {
  const fd = openAt(parent, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW);
  try {
    for (const child of listDirectory(fd)) {
      const status = statAt(fd, child);
      if (status === undefined) continue;
      if ((status.mode & S_IFMT) === S_IFDIR) removeTree(fd, child);
      else unlinkAt(fd, child);
    }
  } finally {
    close(fd);
  }
  rmdirAt(parent, name);
}

/** The names in an open directory, as C strings. */
export function listDirectory(fd: number): Buffer[] {
  const path = descriptorPath(fd);
  return readdirSync(path.subarray(0, -1), { encoding: 'buffer' }).map((name) => cString(name));
}

/** The parts of a path that mean something. */
function components(path: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  let start = 0;
  for (let at = 0; at <= path.length; at++) {
    if (at < path.length && path[at] !== SLASH) continue;
    const part = path.subarray(start, at);
    if (part.length > 0 && !(part.length === 1 && part[0] === 0x2e)) parts.push(part);
    start = at + 1;
  }
  return parts;
}

/** A path as Go's filepath.Clean leaves it, made relative: no empty parts, no `.`, `..` only where nothing is left to go up. */
export function cleanPath(path: Buffer): Buffer {
  if (isClean(path)) return path.at(-1) === SLASH ? path.subarray(0, -1) : path;
  const clean: Buffer[] = [];
  for (const part of components(path)) {
    if (!part.equals(DOT_DOT)) clean.push(part);
    else if (clean.length > 0) clean.pop();
  }
  return joinPath(clean);
}

/** Most names are clean already; a look at each byte is much cheaper than taking them apart. */
function isClean(path: Buffer): boolean {
  let start = 0;
  for (let at = 0; at <= path.length; at++) {
    if (at < path.length && path[at] !== SLASH) continue;
    const length = at - start;
    if (length === 0 && at < path.length) return false;
    if (length === 0 && at === 0) return false;
    if (path[start] === 0x2e && (length === 1 || (length === 2 && path[start + 1] === 0x2e))) return false;
    start = at + 1;
  }
  return true;
}

function joinPath(parts: readonly Buffer[]): Buffer {
  return Buffer.from(parts.map((part) => part.toString('latin1')).join('/'), 'latin1');
}

/** Parent and last name of a clean path. */
export function splitPath(path: Buffer): { parent: Buffer; name: Buffer } {
  const slash = path.lastIndexOf(SLASH);
  return slash < 0
    ? { parent: path.subarray(0, 0), name: path }
    : { parent: path.subarray(0, slash), name: path.subarray(slash + 1) };
}

/** The character device 0:0 that stands for a deleted name in an overlay's upper directory. */
export function isOverlayWhiteout(status: FileStatus): boolean {
  return (status.mode & S_IFMT) === S_IFCHR && status.major === 0 && status.minor === 0;
}

function systemFailure(code: string, what: string, path: Buffer): NodeJS.ErrnoException {
  const shown = path.toString();
  return Object.assign(new Error(`${code}: ${what}, ${JSON.stringify(shown)}`), { code, path: shown });
}
