import { chmodPathFd, close, cString, type FileStatus, O, openAt, statFd } from '../system/files.ts';
import type { DirectoryTimes } from './directory-times.ts';
import type { Checkpoint, MemoryBudget } from './layer-budget.ts';
import type { Squash } from './ownership.ts';
import { copyAttributes, type ImpliedDirectory, LowerDirectories } from './parent-attributes.ts';
import { splitPath } from './paths.ts';
import { isOverlayWhiteout, type MissingDirectories, type Root } from './root.ts';
import type { PassFindings } from './second-pass.ts';
import { type DiffTarget, isFullCopy } from './target.ts';
import { WhiteoutDirectories } from './whiteout-directories.ts';
import type { Whiteouts } from './whiteouts.ts';

/** Bytes that such a directory takes in memory beside its path. */
const IMPLIED_BYTES = 200;

/**
 * The directories that a layer's entries lie in and that no entry had named when they were needed. They are made as new,
 * 0755, and budget: what the layers below have at the same path, unless the layer deletes it, gives them their
 * attributes in the end (`settleImpliedDirectories`). A layer that is written once more has the layers below at hand, and
 * knows what it will delete: its directories get their attributes when they are made, as containerd does it, so that what
 * is made in them inherits what it should.
 */
export class ImpliedDirectories implements MissingDirectories, Disposable {
  private readonly byInode = new Map<bigint, ImpliedDirectory>();
  /** Real paths that the layer deletes of the layers below. */
  private readonly deletedPaths = new Set<string>();
  /** Inodes of devices 0:0 that are the archive's own, by their real paths. */
  private readonly ownDevices = new Map<string, bigint>();
  private readonly hollow = new WhiteoutDirectories();
  private readonly keepsWhiteouts: boolean;
  private readonly whiteouts: Whiteouts;
  private readonly squash: Squash | undefined;
  private readonly budget: MemoryBudget;
  /** Set in a full copy, where the directories above are those of the layers below. */
  private readonly times: DirectoryTimes | undefined;
  private readonly place: string;
  private readonly models: LowerDirectories | undefined;
  private readonly deletedLater: ReadonlySet<string>;

  constructor(
    target: DiffTarget,
    parts: {
      readonly whiteouts: Whiteouts;
      readonly squash: Squash | undefined;
      readonly budget: MemoryBudget;
      readonly times: DirectoryTimes;
    },
    findings: PassFindings | undefined,
  ) {
    const fullCopy = isFullCopy(target);
    this.keepsWhiteouts = target.below !== 'nothing' && !fullCopy;
    this.whiteouts = parts.whiteouts;
    this.squash = parts.squash;
    this.budget = parts.budget;
    this.times = fullCopy ? parts.times : undefined;
    this.place = target.root;
    this.models =
      findings === undefined || target.lowers.length === 0 ? undefined : new LowerDirectories(target.lowers);
    this.deletedLater = new Set(findings?.lateDeletions);
  }

  [Symbol.dispose](): void {
    this.models?.[Symbol.dispose]();
  }

  making(path: string, parent: number): void {
    this.times?.keep(parent, path);
  }

  /**
   * A whiteout of this same layer makes room for a directory: what it hides stays hidden. A device 0:0 of the archive's
   * own is a device like any other, and none.
   */
  allows(path: string, status: FileStatus | undefined): 'make' | 'refuse' {
    if (status === undefined) return 'make';
    if (!this.keepsWhiteouts || !isOverlayWhiteout(status) || !this.deletedPaths.has(path)) return 'refuse';
    return this.ownDevices.get(path) === status.inode ? 'refuse' : 'make';
  }

  /**
   * The same for a whiteout or an opaque marker, which has nothing to hide in a directory that the layer deletes. One that
   * it needs otherwise is hollow until something is written in it.
   */
  readonly forDeletions: MissingDirectories = {
    allows: (path, status) => {
      const allowed = this.allows(path, status);
      return allowed === 'make' && this.isDeletedBelow(path) ? 'nothing' : allowed;
    },
    making: (path, parent) => this.making(path, parent),
    made: (path, parent, name) => {
      this.add(path, parent, name);
      this.hollow.add(path);
      this.whiteouts.needed(path);
      this.whiteouts.made(path);
    },
  };

  /** Something is written at `name` in an open directory, and directories on the way are needed for that. */
  fill(root: Root, parent: number, name: Buffer): void {
    if (this.hollow.count > 0) this.hollow.fill(root.realPathOf(parent, name));
  }

  /** The layer deletes a real path: directories there that it needed only for deletions go. */
  removeHollow(root: Root, path: string): void {
    for (const hollow of this.hollow.take(path)) {
      const { parent, name } = splitPath(Buffer.from(hollow, 'latin1'));
      root.removeAll(root.directory(parent), cString(name), this.gone);
    }
  }

  /** An entry is a device 0:0, which looks like a whiteout, at this real path. */
  ownDevice(path: string, inode: bigint): void {
    this.ownDevices.set(this.budget.charge(path), inode);
  }

  made(path: string, parent: number, name: Buffer): void {
    this.add(path, parent, name);
    this.whiteouts.wrote(path);
    this.whiteouts.made(path);
  }

  private add(path: string, parent: number, name: Buffer): void {
    const fd = openAt(parent, name, O.PATH | O.DIRECTORY | O.NOFOLLOW);
    let status: FileStatus;
    try {
      chmodPathFd(fd, 0o755); // whatever the umask, or the default ACL of the directory above, has left of it
      status = statFd(fd);
    } finally {
      close(fd);
    }
    const { inode } = status;
    this.squash?.madeImplied(inode);
    if (this.deletedPaths.has(path)) this.whiteouts.deletedDirectory(parent, name);
    const above = this.byInode.get(statFd(parent).inode);
    const inUnnamed = above !== undefined && above.given === undefined;
    this.budget.charge(path, IMPLIED_BYTES);
    this.byInode.set(inode, { path, inode, given: undefined, inUnnamed, timed: false, deleted: false });
    if (this.models !== undefined) this.copyModel(this.models, path, parent, name);
  }

  private copyModel(models: LowerDirectories, path: string, parent: number, name: Buffer): void {
    const model = this.isDeletedBelow(path) ? undefined : models.find(Buffer.from(path, 'latin1'));
    if (model === undefined) return;
    const rules = { place: this.place, except: [], squash: this.squash !== undefined };
    copyAttributes(model, parent, name, statFd(model), rules);
  }

  /** An entry names a directory that was there. @param xattrs the entry's extended attributes */
  named(inode: bigint, xattrs: ReadonlyMap<string, unknown> | undefined): void {
    const implied = this.byInode.get(inode);
    if (implied === undefined) return;
    this.byInode.set(inode, { ...implied, given: [...(implied.given ?? []), ...(xattrs?.keys() ?? [])] });
  }

  /** A directory got the times of an entry that leads to it without being its own. */
  timed(inode: bigint): void {
    const implied = this.byInode.get(inode);
    if (implied !== undefined) this.byInode.set(inode, { ...implied, timed: true });
  }

  /** A directory was removed. */
  readonly gone = (inode: bigint): void => {
    const implied = this.byInode.get(inode);
    if (implied === undefined) return;
    this.byInode.delete(inode);
    this.hollow.remove(implied.path);
  };

  /** The layer deletes what the layers below have at this real path. */
  deleted(path: string): void {
    if (!this.deletedPaths.has(path)) this.deletedPaths.add(this.budget.charge(path));
  }

  /** Whether the layer deletes what the layers below have of this name in an open directory. @param name a C string */
  deletes(root: Root, parent: number, name: Buffer): boolean {
    return this.deletedPaths.size > 0 && this.deletedPaths.has(root.realPathOf(parent, name));
  }

  /** Those that are there in the end, parents first. */
  list(checkpoint: Checkpoint): ImpliedDirectory[] {
    const all = [...this.byInode.values()];
    if (this.deletedPaths.size === 0) return all;
    return all.map((one) => {
      checkpoint();
      return this.isDeletedBelow(one.path) ? { ...one, deleted: true } : one;
    });
  }

  /** Whether the layer itself deletes what the layers below have at `path`, by its name or with a directory above. */
  private isDeletedBelow(path: string): boolean {
    for (let end = path.length; end > 0; end = path.lastIndexOf('/', end - 1)) {
      const above = path.slice(0, end);
      if (this.deletedPaths.has(above) || this.deletedLater.has(above)) return true;
    }
    return false;
  }
}
