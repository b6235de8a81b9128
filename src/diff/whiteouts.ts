import { showName, type TarEntry } from '../archive/entry.ts';
import { UnpackError } from '../errors.ts';
import {
  chownAt,
  close,
  cString,
  mknodAt,
  O,
  openAt,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  setXattrAt,
  statAt,
} from '../system/files.ts';
import { setFitting } from './attributes.ts';
import { META_PREFIX } from './aufs.ts';
import type { DirectoryTimes } from './directory-times.ts';
import type { Checkpoint, MemoryBudget } from './layer-budget.ts';
import { isOverlayWhiteout, type Root } from './root.ts';
import { type DiffTarget, isFullCopy } from './target.ts';

const PREFIX = Buffer.from('.wh.');
const OPAQUE = Buffer.from('.wh..wh..opq');
const YES = Buffer.from('y');
const SELF = cString('.');

/** What an entry's name says about the layers below (OCI image spec, layer.md#whiteouts). */
export type WhiteoutName =
  | { readonly kind: 'deleted'; readonly name: Buffer }
  | { readonly kind: 'opaque' }
  /** AufsDirectories of AUFS, which means nothing here. */
  | { readonly kind: 'ignored' };

/**
 * What the last name of a clean path says. AUFS's bookkeeping is in the root and nowhere else: elsewhere such a name is the
 * whiteout of a name that begins with `.wh.`.
 * @returns `undefined` for an ordinary name
 * @throws UnpackError LAYER_UNSAFE for a whiteout of nothing, of the directory itself or of the one above
 */
export function parseWhiteout(name: Buffer, parent: Buffer): WhiteoutName | undefined {
  if (name[0] !== 0x2e || !name.subarray(0, 4).equals(PREFIX)) return undefined;
  if (name.equals(OPAQUE)) return { kind: 'opaque' };
  if (parent.length === 0 && name.subarray(0, 8).equals(META_PREFIX)) return { kind: 'ignored' };
  const deleted = name.subarray(4);
  const text = deleted.toString('latin1');
  if (text === '' || text === '.' || text === '..') {
    throw new UnpackError('LAYER_UNSAFE', `the whiteout ${showName(name)} names no file that it could delete`);
  }
  return { kind: 'deleted', name: deleted };
}

/**
 * What a deletion has done to the directory that the layer is written to:
 *  - `removed`: a directory or a link of the layers below is gone from it;
 *  - `late`: a directory is still there that is deleted, since the layer has written into it before;
 *  - `nothing` of the kind.
 */
export type Deletion = 'nothing' | 'removed' | 'late';

/**
 * How deletions are kept in the directory that a layer is written to. A whiteout hides what is below and never what the
 * same layer adds, in whichever order the two come (OCI image spec; containerd goes by the order).
 */
export interface Whiteouts {
  /** `name` in the directory `parent` is deleted; `path` is the directory's real one, where it matters. */
  delete(parent: number, path: string, name: Buffer, entry: TarEntry): Deletion;
  /** Nothing below shows through in the directory `parent`. */
  opaque(parent: number, path: string): void;
  /** A directory was made at `name`, a C string, which the layer deletes too. */
  deletedDirectory(parent: number, name: Buffer): void;
  /** Something was written at the real path `path`, or in the directory there. */
  wrote(path: string): void;
  /** A deletion needs the directory at the real path `path`. */
  needed(path: string): void;
  /** That is a directory which the layer made. */
  made(path: string): void;
}

/** What a writer shares with its deletions in a full copy. */
export interface WriterParts {
  readonly budget: MemoryBudget;
  /** Those of directories that something is removed from are kept. */
  readonly times: DirectoryTimes;
  readonly checkpoint: Checkpoint;
}

export function whiteouts(target: DiffTarget, root: Root, parts: WriterParts): Whiteouts {
  if (target.below === 'nothing') return NOTHING_BELOW;
  return isFullCopy(target) ? new Removals(root, parts) : new OverlayWhiteouts(target);
}

const join = (path: string, name: Buffer): string =>
  path === '' ? name.toString('latin1') : `${path}/${name.toString('latin1')}`;

/** Device 0:0 for a deleted name, an attribute on an opaque directory (Linux, filesystems/overlayfs.rst). */
class OverlayWhiteouts implements Whiteouts {
  private readonly target: DiffTarget;

  constructor(target: DiffTarget) {
    this.target = target;
  }

  delete(parent: number, _path: string, name: Buffer, entry: TarEntry): Deletion {
    const cName = cString(name);
    try {
      mknodAt(parent, cName, S_IFCHR, 0);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      const status = statAt(parent, cName);
      // what is there is this layer's own and hides what is below by itself; only a directory would let it through
      if (status !== undefined && (status.mode & S_IFMT) === S_IFDIR) this.makeOpaque(parent, cName);
      return status !== undefined && !isOverlayWhiteout(status) ? 'late' : 'nothing';
    }
    if (this.target.ownership === 'keep') chownAt(parent, cName, entry.uid, entry.gid);
    return 'nothing';
  }

  opaque(parent: number): void {
    this.makeOpaque(parent, SELF);
  }

  deletedDirectory(parent: number, name: Buffer): void {
    this.makeOpaque(parent, name);
  }

  wrote(): void {}

  needed(): void {}

  made(): void {}

  private makeOpaque(parent: number, name: Buffer): void {
    const { root, opaqueXattr } = this.target;
    setFitting(root, opaqueXattr, YES, () => setXattrAt(parent, name, cString(opaqueXattr), YES));
  }
}

/**
 * `written`: the layer wrote this, or something inside. `needed`: a deletion inside needs the directory, or one did. `made`:
 * the layer made the directory, so that nothing in it is from the layers below.
 */
const MARK = { written: 1, needed: 2, made: 4 } as const;

/**
 * The directory holds a copy of the layers below: deleted names are removed, unless this layer wrote them. A directory of
 * the layers below that it wrote into must be as new when it is deleted, which it only can be from the start.
 */
class Removals implements Whiteouts {
  /** What this layer has to do with a path, several of `MARK` added up. */
  private readonly marks = new Map<string, number>();
  private readonly root: Root;
  private readonly budget: MemoryBudget;
  private readonly times: DirectoryTimes;
  private readonly checkpoint: Checkpoint;

  constructor(root: Root, { budget, times, checkpoint }: WriterParts) {
    this.root = root;
    this.budget = budget;
    this.times = times;
    this.checkpoint = checkpoint;
  }

  delete(parent: number, path: string, name: Buffer): Deletion {
    const whole = join(path, name);
    const done = this.removeOld(parent, cString(name), whole, MARK.written);
    return done === 'late' && this.has(whole, MARK.made) ? 'nothing' : done;
  }

  opaque(parent: number, path: string): void {
    const fd = openAt(parent, SELF, O.RDONLY | O.DIRECTORY);
    try {
      // a marker hides what is below, not the directories that other deletions in there need
      this.removeOldInside(fd, path, MARK.written | MARK.needed);
    } finally {
      close(fd);
    }
  }

  deletedDirectory(): void {}

  made(path: string): void {
    this.mark(path, MARK.made);
  }

  wrote(path: string): void {
    this.markUpwards(path, MARK.written);
  }

  needed(path: string): void {
    this.markUpwards(path, MARK.needed);
  }

  private has(path: string, mark: number): boolean {
    return ((this.marks.get(path) ?? 0) & mark) !== 0;
  }

  private mark(path: string, mark: number): void {
    const marks = this.marks.get(path);
    this.marks.set(marks === undefined ? this.budget.charge(path) : path, (marks ?? 0) | mark);
  }

  /** The directories above have the mark where the path has it. */
  private markUpwards(path: string, mark: number): void {
    for (let at = path; at !== '' && !this.has(at, mark); at = at.slice(0, Math.max(0, at.lastIndexOf('/')))) {
      this.mark(at, mark);
    }
  }

  private removeOld(parent: number, name: Buffer, path: string, kept: number): Deletion {
    if (!this.has(path, kept)) return this.root.removeAll(parent, name) ? 'removed' : 'nothing';
    const status = statAt(parent, name);
    if (status === undefined || (status.mode & S_IFMT) !== S_IFDIR) return 'nothing';
    const fd = openAt(parent, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW);
    try {
      this.removeOldInside(fd, path, kept);
    } finally {
      close(fd);
    }
    return 'late';
  }

  private removeOldInside(fd: number, path: string, kept: number): void {
    this.times.keep(fd, path);
    for (const name of this.root.list(fd)) {
      this.checkpoint();
      this.removeOld(fd, name, join(path, name.subarray(0, -1)), kept);
    }
  }
}

const NOTHING_BELOW: Whiteouts = {
  delete: () => 'nothing',
  opaque() {},
  deletedDirectory() {},
  wrote() {},
  needed() {},
  made() {},
};
