import { showName, type TarEntry } from '../archive/entry.ts';
import { errnoOf } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { cString, S_IFCHR, S_IFDIR, S_IFMT } from '../system/files.ts';
import type { AddedFiles } from './added-files.ts';
import { setFitting } from './attributes.ts';
import { AUFS_PREFIX } from './aufs.ts';
import type { DirectoryTimes } from './directory-times.ts';
import type { Checkpoint, MemoryBudget } from './layer-budget.ts';
import type { LayerTree } from './layer-tree.ts';
import { isOverlayWhiteout, type Root } from './root.ts';
import { type DiffTarget, isFullCopy } from './target.ts';

const PREFIX = Buffer.from('.wh.');
const OPAQUE = Buffer.from('.wh..wh..opq');
const YES = Buffer.from('y');
const SELF = cString('.');

/** A name that has a meaning for the layers below (OCI image spec, layer.md#whiteouts). */
export type WhiteoutName =
  | { readonly kind: 'deleted'; readonly name: Buffer }
  | { readonly kind: 'opaque' }
  /** A file of AUFS, which is not written (aufs.ts). */
  | { readonly kind: 'ignored' };

/**
 * Parses the last name of a clean path. AUFS files exist only in the root: in other directories such a name is the whiteout
 * of a name that begins with `.wh.`.
 * @returns `undefined` for an ordinary name
 * @throws UnpackError LAYER_UNSAFE for a whiteout of an empty name, of `.` or of `..`
 */
export function parseWhiteout(name: Buffer, parent: Buffer): WhiteoutName | undefined {
  if (name[0] !== 0x2e || !name.subarray(0, 4).equals(PREFIX)) return undefined;
  if (name.equals(OPAQUE)) return { kind: 'opaque' };
  if (parent.length === 0 && name.subarray(0, 8).equals(AUFS_PREFIX)) return { kind: 'ignored' };
  const deleted = name.subarray(4);
  const text = deleted.toString('latin1');
  if (text === '' || text === '.' || text === '..') {
    throw new UnpackError('LAYER_UNSAFE', `the whiteout ${showName(name)} does not name a file to delete`);
  }
  return { kind: 'deleted', name: deleted };
}

/**
 * The effect of a deletion on the directory that the layer is written to:
 *  - `removed`: a directory or a symbolic link of the layers below was removed;
 *  - `late`: the deleted name was kept, because the layer has written there before;
 *  - `nothing`: neither.
 */
export type Deletion = 'nothing' | 'removed' | 'late';

/**
 * Carries out the deletions of a layer, in an overlay, in a full copy, or on nothing. A whiteout hides only content of
 * the layers below, regardless of the order of the entries in the same layer (OCI image spec). In containerd the order
 * of the entries matters.
 */
export interface Whiteouts {
  /** The layer deletes `name` in the directory `parent`. @param path real path of the directory, in a full copy */
  delete(parent: number, path: string, name: Buffer, entry: TarEntry): Deletion;
  /** The layer makes the directory `parent` opaque: the content of this directory in the layers below is hidden. */
  opaque(parent: number, path: string): void;
  /** The layer has made a directory at a name that it also deletes. @param name a C string */
  deletedDirectory(parent: number, name: Buffer): void;
  /** The layer has written something at the real path `path`. */
  wrote(path: string): void;
  /** A whiteout of the layer lies in the directory at the real path `path`. */
  needed(path: string): void;
  /** The layer has made the directory at the real path `path`. */
  made(path: string): void;
}

/** The parts of `LayerWriter` that deletions use. */
export interface WriterParts {
  readonly budget: MemoryBudget;
  /** Keeps the times of directories when something in them is removed. */
  readonly times: DirectoryTimes;
  readonly checkpoint: Checkpoint;
  readonly added: AddedFiles;
}

export function whiteouts(target: DiffTarget, root: Root, parts: WriterParts): Whiteouts {
  if (target.below === 'nothing') return NOTHING_BELOW;
  return isFullCopy(target) ? new Removals(root, parts) : new OverlayWhiteouts(target, root.tree, parts.added);
}

const join = (path: string, name: Buffer): string =>
  path === '' ? name.toString('latin1') : `${path}/${name.toString('latin1')}`;

/** Upper directory of an overlay: device 0:0 for a deleted name, an attribute for an opaque directory (Linux, overlayfs.rst). */
class OverlayWhiteouts implements Whiteouts {
  private readonly target: DiffTarget;
  private readonly tree: LayerTree;
  private readonly added: AddedFiles;

  constructor(target: DiffTarget, tree: LayerTree, added: AddedFiles) {
    this.target = target;
    this.tree = tree;
    this.added = added;
  }

  delete(parent: number, _path: string, name: Buffer, entry: TarEntry): Deletion {
    const cName = cString(name);
    try {
      this.tree.mknodAt(parent, cName, S_IFCHR, 0);
      this.added.node();
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
      const status = this.tree.statAt(parent, cName);
      // an existing file is from this layer and hides the layers below; an existing directory hides them only if it is
      // opaque
      if (status !== undefined && (status.mode & S_IFMT) === S_IFDIR) this.makeOpaque(parent, cName);
      return status !== undefined && !isOverlayWhiteout(status) ? 'late' : 'nothing';
    }
    if (this.target.ownership === 'keep') this.tree.chownAt(parent, cName, entry.uid, entry.gid);
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
    const { opaqueXattr } = this.target;
    setFitting(this.tree, opaqueXattr, YES, () => this.tree.setXattrAt(parent, name, cString(opaqueXattr), YES));
  }
}

/**
 * `written`: the layer has written this path, or a path below. `needed`: a whiteout of the layer is below this path.
 * `made`: the layer has made the directory, so nothing in the directory is from the layers below.
 */
const MARK = { written: 1, needed: 2, made: 4 } as const;

/**
 * Deletions in a full copy of the layers below: deleted names are removed, unless this layer has written them. If the
 * layer has written into a deleted directory of the layers below, this pass can only report it as `late`: a second pass
 * must make the directory as a new one.
 */
class Removals implements Whiteouts {
  /** Flags of `MARK` by real path. */
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
    const fd = this.root.tree.openDirectory(parent, SELF);
    try {
      // the marker hides the content of the layers below, but directories with other whiteouts are kept
      this.removeOldInside(fd, path, MARK.written | MARK.needed);
    } finally {
      this.root.tree.close(fd);
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

  /** Marks the path and all directories above it. If a path has the mark, all directories above have the mark, too. */
  private markUpwards(path: string, mark: number): void {
    for (let at = path; at !== '' && !this.has(at, mark); at = at.slice(0, Math.max(0, at.lastIndexOf('/')))) {
      this.mark(at, mark);
    }
  }

  /** Removes `name` unless it has a mark of `kept`. */
  private removeOld(parent: number, name: Buffer, path: string, kept: number): Deletion {
    if (!this.has(path, kept)) return this.root.removeAll(parent, name) ? 'removed' : 'nothing';
    const status = this.root.tree.statAt(parent, name);
    if (status === undefined || (status.mode & S_IFMT) !== S_IFDIR) return 'nothing';
    const fd = this.root.tree.openDirectory(parent, name);
    try {
      this.removeOldInside(fd, path, kept);
    } finally {
      this.root.tree.close(fd);
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
