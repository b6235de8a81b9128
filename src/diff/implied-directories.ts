import { cString, type FileStatus } from '../system/files.ts';
import type { AddedFiles } from './added-files.ts';
import type { DirectoryTimes } from './directory-times.ts';
import type { Checkpoint, MemoryBudget } from './layer-budget.ts';
import type { LayerTree } from './layer-tree.ts';
import type { Squash } from './ownership.ts';
import { copyAttributes, type ImpliedDirectory, type LayersBelow, LowerDirectories } from './parent-attributes.ts';
import { splitPath } from './paths.ts';
import { isOverlayWhiteout, type MissingDirectories, type Root } from './root.ts';
import type { PassFindings } from './second-pass.ts';
import { type DiffTarget, isFullCopy } from './target.ts';
import { WhiteoutDirectories } from './whiteout-directories.ts';
import type { Whiteouts } from './whiteouts.ts';

/** Number of bytes of memory per implied directory, in addition to its path. */
const IMPLIED_BYTES = 200;

/**
 * Makes the implied directories of a layer. An implied directory contains an entry, but has no earlier entry itself. It
 * is made with mode 0755. After the last entry it gets the attributes of the same directory in the layers below
 * (parent-attributes.ts).
 *
 * In a second pass the layers below exist and all deletions are known. So an implied directory gets these attributes
 * when it is made, as in containerd, and files in the directory inherit a default ACL.
 */
export class ImpliedDirectories implements MissingDirectories, Disposable {
  private readonly byInode = new Map<bigint, ImpliedDirectory>();
  /** Real paths of the layers below that the layer has deleted so far. */
  private readonly deletedPaths = new Set<string>();
  /** Real paths of the late deletions that the previous pass has found. */
  private readonly deletedLater: ReadonlySet<string>;
  /** Character devices 0:0 that are entries of the archive, not whiteouts: inodes by real path. */
  private readonly ownDevices = new Map<string, bigint>();
  private readonly onlyWhiteouts = new WhiteoutDirectories();
  private readonly keepsWhiteouts: boolean;
  private readonly whiteouts: Whiteouts;
  private readonly squash: Squash | undefined;
  private readonly budget: MemoryBudget;
  private readonly added: AddedFiles;
  /** Set in a full copy, because its parent directories can be from the layers below. */
  private readonly times: DirectoryTimes | undefined;
  private readonly tree: LayerTree;
  /** Set in a second pass. */
  private readonly lowers: LowerDirectories | undefined;

  constructor(
    target: DiffTarget & LayersBelow,
    parts: {
      readonly root: Root;
      readonly whiteouts: Whiteouts;
      readonly squash: Squash | undefined;
      readonly budget: MemoryBudget;
      readonly times: DirectoryTimes;
      readonly added: AddedFiles;
    },
    findings: PassFindings | undefined,
  ) {
    const fullCopy = isFullCopy(target);
    this.keepsWhiteouts = target.below !== 'nothing' && !fullCopy;
    this.whiteouts = parts.whiteouts;
    this.squash = parts.squash;
    this.budget = parts.budget;
    this.added = parts.added;
    this.times = fullCopy ? parts.times : undefined;
    this.tree = parts.root.tree;
    const isSecondPass = findings !== undefined && target.lowers.length > 0;
    this.lowers = isSecondPass ? new LowerDirectories(target, parts.root) : undefined;
    this.deletedLater = new Set(findings?.lateDeletions);
  }

  [Symbol.dispose](): void {
    this.lowers?.[Symbol.dispose]();
  }

  making(path: string, parent: number): void {
    this.times?.keep(parent, path);
  }

  /**
   * Decides what happens at a missing directory. A directory can replace a whiteout of this layer, and
   * `deletedDirectory` makes this directory opaque. A directory cannot replace a device 0:0 that is an entry of the
   * archive.
   */
  allows(path: string, status: FileStatus | undefined): 'make' | 'refuse' {
    if (status === undefined) return 'make';
    if (!this.keepsWhiteouts || !isOverlayWhiteout(status) || !this.deletedPaths.has(path)) return 'refuse';
    return this.ownDevices.get(path) === status.inode ? 'refuse' : 'make';
  }

  made(path: string, parent: number, name: Buffer): void {
    this.add(path, parent, name);
    this.whiteouts.wrote(path);
    this.whiteouts.made(path);
  }

  /**
   * The same for the directory of a whiteout or an opaque marker. Inside a deleted directory nothing is left to hide,
   * so no directory is made, and a file of the layer at its path is not in the way.
   */
  readonly forDeletions: MissingDirectories = {
    allows: (path, status) => (this.isDeletedBelow(path) ? 'nothing' : this.allows(path, status)),
    making: (path, parent) => this.making(path, parent),
    made: (path, parent, name) => {
      this.add(path, parent, name);
      this.onlyWhiteouts.add(path);
      this.whiteouts.needed(path);
      this.whiteouts.made(path);
    },
  };

  /** An entry other than a whiteout is written at `name` in an open directory. @param name a C string */
  wrote(root: Root, parent: number, name: Buffer): void {
    if (this.onlyWhiteouts.count > 0) this.onlyWhiteouts.keep(root.realPathOf(parent, name));
  }

  /** The layer deletes a real path. Removes the directories there that contain only whiteouts. */
  removeWhiteoutDirectories(root: Root, path: string): void {
    for (const directory of this.onlyWhiteouts.take(path)) {
      const { parent, name } = splitPath(Buffer.from(directory, 'latin1'));
      root.removeAll(root.directory(parent), cString(name), this.removed);
    }
  }

  /** The archive has an entry for a character device 0:0 at this real path. On disk it looks like a whiteout. */
  ownDevice(path: string, inode: bigint): void {
    this.ownDevices.set(this.budget.charge(path), inode);
  }

  /** An existing directory has an entry. @param xattrs the entry's extended attributes */
  named(inode: bigint, xattrs: ReadonlyMap<string, unknown> | undefined): void {
    const implied = this.byInode.get(inode);
    if (implied === undefined) return;
    this.byInode.set(inode, { ...implied, given: [...(implied.given ?? []), ...(xattrs?.keys() ?? [])] });
  }

  /** The directory got the times of an entry whose path leads to this directory through a symbolic link. */
  timed(inode: bigint): void {
    const implied = this.byInode.get(inode);
    if (implied !== undefined) this.byInode.set(inode, { ...implied, timed: true });
  }

  /** A directory was removed. */
  readonly removed = (inode: bigint): void => {
    const implied = this.byInode.get(inode);
    if (implied === undefined) return;
    this.byInode.delete(inode);
    this.onlyWhiteouts.remove(implied.path);
  };

  /** The layer deletes the content of the layers below at this real path. */
  deleted(path: string): void {
    if (!this.deletedPaths.has(path)) this.deletedPaths.add(this.budget.charge(path));
  }

  /** Whether the layer has deleted `name` of the layers below in an open directory. @param name a C string */
  deletes(root: Root, parent: number, name: Buffer): boolean {
    return this.deletedPaths.size > 0 && this.deletedPaths.has(root.realPathOf(parent, name));
  }

  /** The implied directories that still exist, parents first. */
  list(checkpoint: Checkpoint): ImpliedDirectory[] {
    const all = [...this.byInode.values()];
    if (this.deletedPaths.size === 0) return all;
    return all.map((one) => {
      checkpoint();
      return this.isDeletedBelow(one.path) ? { ...one, deleted: true } : one;
    });
  }

  private add(path: string, parent: number, name: Buffer): void {
    // needed, because the umask or a default ACL of the parent directory can change the mode
    this.tree.chmodAt(parent, name, 0o755);
    const inode = this.tree.statAt(parent, name)?.inode;
    if (inode === undefined) return; // another process has removed it
    this.added.directory();
    this.squash?.madeImplied(inode);
    if (this.deletedPaths.has(path)) this.whiteouts.deletedDirectory(parent, name);
    const above = this.byInode.get(this.tree.statFd(parent).inode);
    const inUnnamed = above !== undefined && above.given === undefined;
    this.budget.charge(path, IMPLIED_BYTES);
    this.byInode.set(inode, { path, inode, given: undefined, inUnnamed, timed: false, deleted: false });
    if (this.lowers !== undefined) this.copyLower(this.lowers, path, parent, name);
  }

  private copyLower(lowers: LowerDirectories, path: string, parent: number, name: Buffer): void {
    const lower = this.isDeletedBelow(path) ? undefined : lowers.find(Buffer.from(path, 'latin1'));
    if (lower === undefined) return;
    const rules = { except: [], squash: this.squash !== undefined };
    copyAttributes(lower, this.tree, parent, name, lower.status, rules);
  }

  /** Whether the layer deletes `path` of the layers below, or a directory above `path`. */
  private isDeletedBelow(path: string): boolean {
    for (let end = path.length; end > 0; end = path.lastIndexOf('/', end - 1)) {
      const above = path.slice(0, end);
      if (this.deletedPaths.has(above) || this.deletedLater.has(above)) return true;
    }
    return false;
  }
}
