import type { EntrySink, TarEntry } from '../archive/entry.ts';
import { errnoOf } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { cString, makeDevice, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT } from '../system/files.ts';
import { AddedFiles, type AddedUsage } from './added-files.ts';
import {
  type AttributeRules,
  attributeRules,
  HAS_NOTHING,
  type Has,
  setFileAttributes,
  setNodeAttributes,
} from './attributes.ts';
import { AufsDirectories, aufsDirectoryOf } from './aufs.ts';
import { DirectoryTimes } from './directory-times.ts';
import { entryError } from './entry-error.ts';
import { hardLinkTarget, makeHardLink } from './hard-links.ts';
import { ImpliedDirectories } from './implied-directories.ts';
import { InitialAttributes } from './initial-attributes.ts';
import { type Checkpoint, MemoryBudget, NO_CHECKPOINT } from './layer-budget.ts';
import type { LayerTree } from './layer-tree.ts';
import { LeftOut } from './left-out.ts';
import { type DirectoryMode, OWNER_RIGHTS, Squash } from './ownership.ts';
import { copyParentAttributes, type ImpliedDirectory, type LayersBelow } from './parent-attributes.ts';
import { cleanPath, splitPath } from './paths.ts';
import { Root, type RootOptions } from './root.ts';
import { LateDeletions, type PassFindings } from './second-pass.ts';
import { type DiffTarget, isFullCopy, openTarget } from './target.ts';
import { parseWhiteout, type WhiteoutName, type Whiteouts, whiteouts } from './whiteouts.ts';

const MAX_UINT32 = 0xffffffff;

export interface LayerWriterOptions extends RootOptions {
  /** Memory limit in bytes for data that is kept until the last entry (`LayerLimits`); default: none. */
  readonly memoryBytes?: number;
  /** The tree to write to, instead of the directory of the target. It is disposed with the writer. */
  readonly tree?: LayerTree;
  /** Opens the tree of a layer below by its path (`lowers`), if it is not a directory. */
  readonly openLower?: LayersBelow['openLower'];
  /** The findings of the previous pass; `undefined` in the first pass. */
  readonly findings?: PassFindings | undefined;
  /** `entry`, `finish` and `copyParentAttributes` throw its errors, possibly as the cause of another error. */
  readonly checkpoint?: Checkpoint | undefined;
}

/** The result of one pass over a layer. */
export interface WrittenLayer {
  /** Implied directories, parents first. They have their final attributes unless the target's `below` is `later`. */
  readonly impliedDirectories: readonly ImpliedDirectory[];
  /**
   * Set if owners are not kept: directories whose modes deny access to their owner. Their modes are set after
   * attributes are copied.
   */
  readonly directoryModes: readonly DirectoryMode[] | undefined;
  /**
   * Whether the layer must be written again with `findings`, into a new snapshot on its parent, because the result is
   * wrong.
   */
  readonly needsSecondPass: boolean;
  /** An estimate of what the layer adds to the disk. */
  readonly usage: AddedUsage;
  readonly findings: PassFindings;
  /** Sentences for the job's result: what was left out, and why. */
  readonly warnings: readonly string[];
}

/**
 * Writes a layer's entries into a directory, one after the other, as containerd's applier does. The apply thread passes
 * the writer to a `TarReader`. Every path is resolved inside the directory, and the last name of a path is never followed.
 *
 *     writing → writing      by `entry`; for a file, `data` and `end` follow
 *     writing → finished     by `finish`, after the last entry
 *     finished → completed   by `copyParentAttributes`
 *     any state → disposed   by `dispose`
 *
 * A file is created before any check whether its name exists: most names do not exist, so the common case needs no stat.
 */
export class LayerWriter implements EntrySink, Disposable {
  private state: 'writing' | 'finished' | 'completed' | 'disposed' = 'writing';
  private readonly target: DiffTarget & LayersBelow;
  private readonly root: Root;
  private readonly tree: LayerTree;
  private readonly whiteouts: Whiteouts;
  private readonly rules: AttributeRules;
  private readonly fullCopy: boolean;
  /** Set if owners are not kept. */
  private readonly squash: Squash | undefined;
  /** Mode bits that this user needs for writing, in addition to the mode in the archive; root needs none. */
  private readonly ownRights: number;
  private readonly leftOut = new LeftOut();
  private readonly added = new AddedFiles();
  private readonly implied: ImpliedDirectories;
  private readonly directoryTimes: DirectoryTimes;
  private readonly isFirstPass: boolean;
  private readonly late: LateDeletions;
  private readonly initial: InitialAttributes;
  private readonly checkpoint: Checkpoint;
  private readonly aufs: AufsDirectories;
  /** Whether paths can lead through symbolic links: the layer has made one, or the root is a copy of the parent. */
  private hasLinks: boolean;

  private current: TarEntry | undefined;
  /** In a full copy: the real path of the current entry's directory. Otherwise empty. */
  private realParent = '';
  /** The handles of the file that is being written and of its directory. -1: the data of the entry are ignored. */
  private file = -1;
  private fileParent = -1;
  /** Bytes of data that the file has so far. */
  private fileData = 0;

  constructor(target: DiffTarget, options: LayerWriterOptions = {}) {
    const { checkpoint = NO_CHECKPOINT, findings } = options;
    this.target = { ...target, openLower: options.openLower };
    this.checkpoint = checkpoint;
    this.isFirstPass = findings === undefined;
    this.root = options.tree === undefined ? openTarget(target, options) : new Root(options.tree, options);
    this.tree = this.root.tree;
    const budget = new MemoryBudget(options.memoryBytes ?? Number.POSITIVE_INFINITY);
    const times = new DirectoryTimes(this.root, budget);
    this.directoryTimes = times;
    this.aufs = new AufsDirectories(this.root, budget);
    this.late = new LateDeletions(budget, findings);
    this.whiteouts = whiteouts(target, this.root, { budget, times, checkpoint, added: this.added });
    this.fullCopy = isFullCopy(target);
    if (!this.fullCopy) this.added.directory(); // the root
    this.hasLinks = this.fullCopy;
    this.squash =
      target.ownership === 'squash' ? new Squash(this.root, this.leftOut, target.copied, budget) : undefined;
    this.ownRights = this.squash === undefined ? 0 : OWNER_RIGHTS;
    this.rules = attributeRules(target, this.tree, this.squash, this.leftOut);
    this.initial = new InitialAttributes(this.root);
    const parts = { root: this.root, whiteouts: this.whiteouts, squash: this.squash, budget, times, added: this.added };
    this.implied = new ImpliedDirectories(this.target, parts, findings);
    try {
      if (this.fullCopy) this.late.removeKnown(this.root, times);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  entry(entry: TarEntry): void {
    this.require('writing');
    this.checkpoint();
    this.current = entry;
    this.guard(() => this.place(entry));
  }

  data(bytes: Buffer, position: number, offset: number): void {
    if (this.file < 0) return;
    this.guard(() => {
      this.fileData += bytes.length;
      this.tree.write(this.file, bytes, position, offset);
    });
  }

  end(): void {
    const { current, file } = this;
    if (file < 0 || current === undefined) return;
    this.added.file(this.fileData);
    this.guard(() => {
      try {
        if (current.sparse) this.tree.truncate(file, current.size);
        setFileAttributes(file, current, this.rules, this.has(this.fileParent, current));
      } finally {
        this.closeFile();
      }
    });
  }

  /**
   * After the last entry: removes AUFS directories and sets the times of directories.
   * @throws UnpackError
   */
  finish(): void {
    this.require('writing');
    this.state = 'finished';
    this.aufs.removeAll(this.implied.removed);
    this.directoryTimes.apply(this.checkpoint, (inode) => this.implied.timed(inode));
  }

  /**
   * Call this after `finish`. Gives implied directories the attributes that they have in the parent layers, if the
   * paths of the parent layers are known (`lowers`).
   * @throws UnpackError, system errors, and the checkpoint's error
   */
  copyParentAttributes(): WrittenLayer {
    this.require('finished');
    this.state = 'completed';
    const impliedDirectories = this.implied.list(this.checkpoint);
    const directoryModes = this.squash?.directoryModes();
    const findings = this.late.findings(this.root);
    const inherits = copyParentAttributes(this.root, this.target, impliedDirectories, directoryModes, this.checkpoint);
    const wroteIntoDeleted = this.fullCopy && this.late.hasNew(findings);
    return {
      impliedDirectories,
      directoryModes,
      needsSecondPass: wroteIntoDeleted || (inherits && this.isFirstPass),
      usage: this.added.usage,
      findings,
      warnings: this.leftOut.sentences(),
    };
  }

  [Symbol.dispose](): void {
    this.state = 'disposed';
    this.closeFile();
    this.implied[Symbol.dispose]();
    this.root[Symbol.dispose]();
  }

  /** @throws Error if the writer is in another state, or in the middle of a file */
  private require(state: typeof this.state): void {
    if (this.state === state && this.file < 0) return;
    throw new Error(`the layer writer must be ${state}, but it is ${this.file < 0 ? this.state : 'in a file'}`);
  }

  private closeFile(): void {
    if (this.file >= 0) this.tree.close(this.file);
    this.file = -1;
  }

  private place(entry: TarEntry): void {
    const path = cleanPath(entry.name);
    if (path.length === 0) return; // the attributes of the root are not changed
    const { parent: parentPath, name } = splitPath(path);
    const whiteout = parseWhiteout(name, parentPath);
    const aufsDirectory = aufsDirectoryOf(parentPath);
    if (whiteout?.kind === 'ignored' || (whiteout !== undefined && aufsDirectory !== undefined)) return;
    if (aufsDirectory !== undefined) this.aufs.add(aufsDirectory);
    if (whiteout !== undefined) {
      this.hide(whiteout, parentPath, entry);
      return;
    }
    const parent = this.root.directory(parentPath, this.implied);
    const key = path.toString('latin1');
    if (this.fullCopy) this.enterDirectory(parent, parentPath);
    const cName = cString(name);
    this.implied.wrote(this.root, parent, cName);
    if (this.fullCopy) this.whiteouts.wrote(this.realPathOf(cName));
    switch (entry.type) {
      case 'file':
        this.file = this.create(parent, cName, () =>
          this.tree.createFile(parent, cName, (entry.mode & 0o777) | (this.ownRights & 0o600)),
        );
        this.fileParent = parent;
        this.fileData = 0;
        return;
      case 'directory':
        this.directory(parent, cName, entry);
        this.directoryTimes.set(key, entry.atime, entry.mtime);
        if (this.hasLinks) this.setTimesAtOnce(parent, cName, entry, key);
        return;
      case 'symlink':
        this.hasLinks = true;
        this.create(parent, cName, () => this.tree.symlinkAt(cString(entry.linkName), parent, cName));
        this.added.node();
        setNodeAttributes(parent, cName, entry, 'link', this.rules, this.has(parent, entry));
        return;
      case 'hardlink':
        this.hardLink(parent, cName, entry);
        return;
      default:
        this.device(parent, cName, entry);
    }
  }

  /** A whiteout or an opaque marker. */
  private hide(whiteout: Exclude<WhiteoutName, { kind: 'ignored' }>, parentPath: Buffer, entry: TarEntry): void {
    const parent = this.root.neededDirectory(parentPath, this.implied.forDeletions);
    if (parent === undefined) return; // inside a directory that the layer deletes
    if (this.fullCopy) this.enterDirectory(parent, parentPath);
    this.whiteouts.needed(this.realParent);
    if (whiteout.kind === 'opaque') {
      this.whiteouts.opaque(parent, this.realParent);
      return;
    }
    const deleted = this.root.realPathOf(parent, cString(whiteout.name));
    this.implied.removeWhiteoutDirectories(this.root, deleted);
    const deletion = this.whiteouts.delete(parent, this.realParent, whiteout.name, entry);
    this.implied.deleted(deleted);
    this.late.deleted(deletion, deleted, parentPath);
  }

  /** The real path of the current entry, in a full copy. @param name a C string */
  private realPathOf(name: Buffer): string {
    const last = name.toString('latin1', 0, name.length - 1);
    return this.realParent === '' ? last : `${this.realParent}/${last}`;
  }

  /** Runs `make`. If the name exists, removes it and runs `make` again. */
  private create<T>(parent: number, name: Buffer, make: () => T): T {
    try {
      return make();
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
    }
    this.replace(parent, name);
    return make();
  }

  private directory(parent: number, name: Buffer, entry: TarEntry): void {
    const make = (): void => {
      this.tree.mkdirAt(parent, name, (entry.mode & 0o777) | this.ownRights);
      this.added.directory();
      if (this.fullCopy) this.whiteouts.made(this.realPathOf(name));
      if (this.implied.deletes(this.root, parent, name)) this.whiteouts.deletedDirectory(parent, name);
    };
    let has = this.has(parent, entry);
    try {
      make();
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
      const status = this.tree.statAt(parent, name);
      if (status !== undefined && (status.mode & S_IFMT) === S_IFDIR) {
        // the directory keeps its content and gets the attributes of the entry
        this.implied.named(status.inode, entry.xattrs);
        has = HAS_NOTHING;
      } else {
        this.replace(parent, name);
        make();
      }
    }
    setNodeAttributes(parent, name, entry, 'directory', this.rules, has);
    if (has === HAS_NOTHING) this.initial.directoryChanged();
  }

  /**
   * Sets the times at once if the path leads through a symbolic link, because the link can change before the last
   * entry.
   */
  private setTimesAtOnce(parent: number, name: Buffer, { atime, mtime }: TarEntry, path: string): void {
    if (this.fullCopy) {
      const realPath = this.realPathOf(name);
      if (realPath === path) return;
      this.directoryTimes.named(realPath);
    }
    this.tree.utimensAt(parent, name, atime, mtime);
  }

  private hardLink(parent: number, name: Buffer, entry: TarEntry): void {
    const { linkName } = entry;
    if (this.squash !== undefined) {
      const target = hardLinkTarget(this.root, linkName);
      if (this.squash.isDevice(target.parent, target.name)) {
        this.leaveOutDevice(parent, name, entry);
        return;
      }
    }
    // the target is resolved again after a removal, because its path can lead through the removed name
    const kind = this.create(parent, name, () => makeHardLink(this.root, linkName, parent, name));
    setNodeAttributes(parent, name, entry, kind, this.rules, HAS_NOTHING);
  }

  private device(parent: number, name: Buffer, entry: TarEntry): void {
    const { devMajor, devMinor } = entry;
    if (devMajor < 0 || devMajor > MAX_UINT32 || devMinor < 0 || devMinor > MAX_UINT32) {
      throw new UnpackError('LAYER_CORRUPT', `the device number ${devMajor}:${devMinor} is out of range`);
    }
    const type = entry.type === 'fifo' ? S_IFIFO : entry.type === 'block' ? S_IFBLK : S_IFCHR;
    const device = entry.type === 'fifo' ? 0 : makeDevice(devMajor, devMinor);
    // every user can make the character device 0:0, because it is a whiteout (Linux 5.8)
    if (this.squash !== undefined && type !== S_IFIFO && !(type === S_IFCHR && device === 0)) {
      this.leaveOutDevice(parent, name, entry);
      return;
    }
    this.create(parent, name, () => this.tree.mknodAt(parent, name, type | entry.mode, device));
    this.added.node();
    setNodeAttributes(parent, name, entry, 'special', this.rules, HAS_NOTHING);
    if (type !== S_IFCHR || device !== 0) return;
    const status = this.tree.statAt(parent, name);
    if (status !== undefined) this.implied.ownDevice(this.root.realPathOf(parent, name), status.inode);
  }

  /** Hides a file of the layers below with the same name, because the device would hide it, too. */
  private leaveOutDevice(parent: number, name: Buffer, entry: TarEntry): void {
    this.replace(parent, name);
    this.whiteouts.delete(parent, this.realParent, name.subarray(0, -1), entry);
    this.squash?.device(parent, name, entry);
  }

  /** Which attributes of a new file in `parent` already have the values of the entry. */
  private has(parent: number, entry: TarEntry): Has {
    return this.squash === undefined ? this.initial.has(parent, entry) : HAS_NOTHING;
  }

  /** Removes `name`, with all its content, because an entry of this name follows. */
  private replace(parent: number, name: Buffer): void {
    const status = this.tree.statAt(parent, name);
    if (status !== undefined && (status.mode & S_IFMT) !== S_IFDIR) this.added.replaced(status);
    this.root.removeAll(parent, name, this.implied.removed);
  }

  /** In a full copy: records that an entry is written into a directory that is possibly from the layers below. */
  private enterDirectory(parent: number, parentPath: Buffer): void {
    const path = parentPath.toString('latin1');
    this.realParent = this.root.realPath(parent);
    this.late.entered(path, this.realParent);
    if (!this.directoryTimes.has(path)) this.directoryTimes.keep(parent, this.realParent);
  }

  /** Runs a step of the current entry. @throws UnpackError with the name of the entry */
  private guard(step: () => void): void {
    try {
      step();
    } catch (error) {
      throw entryError(error, this.current);
    }
  }
}
