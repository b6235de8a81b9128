import { ftruncateSync, writeSync } from 'node:fs';
import type { EntrySink, TarEntry } from '../archive/entry.ts';
import { UnpackError } from '../errors.ts';
import {
  close,
  cString,
  makeDevice,
  mkdirAt,
  mknodAt,
  O,
  openAt,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  statAt,
  symlinkAt,
  utimensAt,
} from '../system/files.ts';
import { type AttributeRules, HAS_NOTHING, type Has, setFileAttributes, setNodeAttributes } from './attributes.ts';
import { Bookkeeping, bookkeepingOf } from './bookkeeping.ts';
import { type Checkpoint, GO_ON } from './checkpoint.ts';
import { type DirectoryMode, OWNER_RIGHTS } from './directory-modes.ts';
import { DirectoryTimes } from './directory-times.ts';
import { entryError } from './entry-error.ts';
import type { Foreknowledge } from './foreknowledge.ts';
import { hardLinkTarget, makeHardLink } from './hard-link-target.ts';
import { ImpliedDirectories, type ImpliedDirectory } from './implied-directories.ts';
import { LateDeletions } from './late-deletions.ts';
import { NewNodes } from './new-nodes.ts';
import { cleanPath, splitPath } from './paths.ts';
import { Remembered } from './remembered.ts';
import { leadsNowhere, Root } from './root.ts';
import { Squash } from './squash.ts';
import type { DiffTarget } from './target.ts';
import { Warnings } from './warnings.ts';
import { parseWhiteout, type WhiteoutName, type Whiteouts, whiteouts } from './whiteouts.ts';

const MAX_UINT32 = 0xffffffff;

export interface LayerWriterOptions {
  /** Default: yes, where the kernel has it. */
  readonly useOpenat2?: boolean;
  /** Most memory for what must be known until the last entry, in bytes (`LayerLimits`); default: any amount. */
  readonly rememberedBytes?: number;
  /** What `foreknowledge` said when the layer was written before. */
  readonly known?: Foreknowledge | undefined;
  /** What it throws comes out of `entry`, `finish` or `impliedDirectories`, perhaps as part of another failure. */
  readonly checkpoint?: Checkpoint | undefined;
}

/**
 * Writes a layer's entries into a directory, one after the other, as containerd's applier does. Every path is resolved
 * inside the directory, and every last name is used without following it.
 *
 * Names are tried before they are looked at: most do not exist yet, so the common case needs no stat.
 */
export class LayerWriter implements EntrySink, Disposable {
  private readonly root: Root;
  private readonly whiteouts: Whiteouts;
  private readonly rules: AttributeRules;
  private readonly removing: boolean;
  /** Set where owners are not kept. */
  private readonly squash: Squash | undefined;
  /** Rights that this user needs while it writes, beside those that the archive gives; root needs none. */
  private readonly ownRights: number;
  private readonly warnings = new Warnings();

  private readonly implied: ImpliedDirectories;
  private readonly directoryTimes: DirectoryTimes;
  /** What the entry's directory is called without links, where deletions need to know it. */
  private realParent = '';
  private readonly late: LateDeletions;
  /** There may be symbolic links: the layer has made one, or those below are copied. */
  private hasLinks: boolean;

  private readonly newNodes: NewNodes;
  private readonly checkpoint: Checkpoint;

  private readonly bookkeeping: Bookkeeping;

  /** The file that is being written, and its directory; -1 while its content is passed over. */
  private file = -1;
  private fileParent = -1;
  private current: TarEntry | undefined;

  constructor(target: DiffTarget, options: LayerWriterOptions = {}) {
    this.checkpoint = options.checkpoint ?? GO_ON;
    this.root = new Root(target.root, options);
    const remembered = new Remembered(options.rememberedBytes ?? Number.POSITIVE_INFINITY);
    this.directoryTimes = new DirectoryTimes(remembered);
    this.bookkeeping = new Bookkeeping(this.root, remembered);
    this.late = new LateDeletions(remembered, options.known);
    const { directoryTimes: times, checkpoint } = this;
    this.whiteouts = whiteouts(target, this.root, { remembered, times, checkpoint });
    this.removing = target.whiteouts === 'remove';
    this.hasLinks = this.removing;
    this.squash =
      target.ownership === 'squash' ? new Squash(this.root, this.warnings, target.copied, remembered) : undefined;
    this.ownRights = this.squash === undefined ? 0 : OWNER_RIGHTS;
    this.rules = {
      place: target.root,
      squash: this.squash,
      copied: target.copied,
      forbidden: target.opaqueXattr.startsWith('user.') ? ['trusted.', 'user.overlay.'] : ['trusted.'],
      warnings: this.warnings,
    };
    this.newNodes = new NewNodes(this.root);
    const { whiteouts: deletions, squash } = this;
    this.implied = new ImpliedDirectories(target, { whiteouts: deletions, squash, remembered, times }, options.known);
    try {
      if (this.removing) for (const path of options.known?.deleted ?? []) this.removeFirst(path);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  entry(entry: TarEntry): void {
    this.checkpoint();
    this.current = entry;
    this.guard(() => this.place(entry));
  }

  data(bytes: Buffer, position: number): void {
    if (this.file < 0) return;
    this.guard(() => {
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(this.file, bytes, done, bytes.length - done, position + done);
      }
    });
  }

  end(): void {
    const { current, file } = this;
    if (file < 0 || current === undefined) return;
    this.guard(() => {
      try {
        if (current.sparse) ftruncateSync(file, current.size);
        setFileAttributes(file, current, this.rules, this.has(this.fileParent, current));
      } finally {
        this.closeFile();
      }
    });
  }

  /**
   * Everything is written: removes what is only there to be linked to, and sets the times of directories. Call it once, before `impliedDirectories` and `foreknowledge`
   * are asked.
   * @throws UnpackError
   */
  finish(): void {
    this.bookkeeping.removeAll(this.implied.gone);
    this.directoryTimes.apply(this.root, this.checkpoint, (inode) => this.implied.timed(inode));
  }

  /** Directories that entries needed before the archive named them, if it did, parents first. */
  impliedDirectories(): ImpliedDirectory[] {
    return this.implied.list(this.checkpoint);
  }

  /** What the layer has to know from its start if it must be written once more: what it knew, and what it learned. */
  foreknowledge(): Foreknowledge {
    return this.late.foreknowledge(this.root);
  }

  /**
   * Whether it must, since it wrote into what it has then deleted, in a full copy.
   * @param next what it would know
   */
  wroteIntoDeleted(next: Foreknowledge): boolean {
    return this.removing && this.late.isMore(next);
  }

  /** Where owners are not kept: directories that the layer closes to their owner, still open. */
  directoryModes(): DirectoryMode[] | undefined {
    return this.squash?.directoryModes();
  }

  /** What was left out, in sentences. */
  leftOut(): string[] {
    return this.warnings.sentences();
  }

  [Symbol.dispose](): void {
    this.closeFile();
    this.implied[Symbol.dispose]();
    this.root[Symbol.dispose]();
  }

  private closeFile(): void {
    if (this.file >= 0) close(this.file);
    this.file = -1;
  }

  private place(entry: TarEntry): void {
    const path = cleanPath(entry.name);
    if (path.length === 0) return; // the root itself
    const { parent: parentPath, name } = splitPath(path);
    const whiteout = parseWhiteout(name, parentPath);
    const bookkeeping = bookkeepingOf(parentPath);
    if (whiteout?.kind === 'ignored' || (whiteout !== undefined && bookkeeping !== undefined)) return;
    if (bookkeeping !== undefined) this.bookkeeping.add(bookkeeping);
    if (whiteout !== undefined) {
      this.hide(whiteout, parentPath, entry);
      return;
    }
    const parent = this.root.directory(parentPath, this.implied);
    const key = path.toString('latin1');
    if (this.removing) this.enterOldDirectory(parent, parentPath);
    const cName = cString(name);
    this.implied.fill(this.root, parent, cName);
    if (this.removing) this.whiteouts.wrote(this.realPathOf(cName));
    switch (entry.type) {
      case 'file':
        this.file = this.create(parent, cName, () =>
          openAt(
            parent,
            cName,
            O.WRONLY | O.CREAT | O.EXCL | O.NOFOLLOW,
            (entry.mode & 0o777) | (this.ownRights & 0o600),
          ),
        );
        this.fileParent = parent;
        return;
      case 'directory':
        this.directory(parent, cName, entry);
        this.directoryTimes.set(key, entry.atime, entry.mtime);
        if (this.hasLinks) this.setTimesAtOnce(parent, cName, entry, key);
        return;
      case 'symlink':
        this.hasLinks = true;
        this.create(parent, cName, () => symlinkAt(cString(entry.linkName), parent, cName));
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
    if (parent === undefined) return; // it is in what the layer deletes
    if (this.removing) this.enterOldDirectory(parent, parentPath);
    this.whiteouts.needed(this.realParent);
    if (whiteout.kind === 'opaque') {
      this.whiteouts.opaque(parent, this.realParent);
      return;
    }
    const deleted = this.root.realPathOf(parent, cString(whiteout.name));
    this.implied.removeHollow(this.root, deleted);
    const deletion = this.whiteouts.delete(parent, this.realParent, whiteout.name, entry);
    this.implied.deleted(deleted);
    this.late.deleted(deletion, deleted, parentPath);
  }

  /** What the entry itself is called without links. @param name a C string */
  private realPathOf(name: Buffer): string {
    const last = name.toString('latin1', 0, name.length - 1);
    return this.realParent === '' ? last : `${this.realParent}/${last}`;
  }

  /** Runs `make`, and once more after removing what is there where the name is taken. */
  private create<T>(parent: number, name: Buffer, make: () => T): T {
    try {
      return make();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    this.removeAll(parent, name);
    return make();
  }

  private directory(parent: number, name: Buffer, entry: TarEntry): void {
    const make = (): void => {
      mkdirAt(parent, name, (entry.mode & 0o777) | this.ownRights);
      if (this.removing) this.whiteouts.made(this.realPathOf(name));
      if (this.implied.deletes(this.root, parent, name)) this.whiteouts.deletedDirectory(parent, name);
    };
    let has = this.has(parent, entry);
    try {
      make();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      const status = statAt(parent, name);
      if (status !== undefined && (status.mode & S_IFMT) === S_IFDIR) {
        // merged: what is inside stays, the attributes are the entry's
        this.implied.named(status.inode, entry.xattrs);
        has = HAS_NOTHING;
      } else {
        this.removeAll(parent, name);
        make();
      }
    }
    setNodeAttributes(parent, name, entry, 'directory', this.rules, has);
    if (has === HAS_NOTHING) this.newNodes.directoryChanged();
  }

  /** When everything is written, the path of the directory may lead to another one, if it leads through a link now. */
  private setTimesAtOnce(parent: number, name: Buffer, { atime, mtime }: TarEntry, path: string): void {
    if (this.removing) {
      const realPath = this.realPathOf(name);
      if (realPath === path) return;
      this.directoryTimes.named(realPath);
    }
    utimensAt(parent, name, atime, mtime);
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
    // looked up again once what is in the way is gone: the way to the target may have led through it
    this.create(parent, name, () => makeHardLink(this.root, linkName, parent, name));
    const status = statAt(parent, name);
    const type = (status?.mode ?? S_IFREG) & S_IFMT;
    const kind = type === S_IFLNK ? 'link' : type === S_IFREG ? 'file' : 'special';
    setNodeAttributes(parent, name, entry, kind, this.rules, HAS_NOTHING);
  }

  private device(parent: number, name: Buffer, entry: TarEntry): void {
    const { devMajor, devMinor } = entry;
    if (devMajor < 0 || devMajor > MAX_UINT32 || devMinor < 0 || devMinor > MAX_UINT32) {
      throw new UnpackError('LAYER_CORRUPT', `there is no device ${devMajor}:${devMinor}`);
    }
    const type = entry.type === 'fifo' ? S_IFIFO : entry.type === 'block' ? S_IFBLK : S_IFCHR;
    const device = entry.type === 'fifo' ? 0 : makeDevice(devMajor, devMinor);
    // the character device 0:0 is a whiteout to the kernel, and anybody may make it (Linux 5.8)
    if (this.squash !== undefined && type !== S_IFIFO && !(type === S_IFCHR && device === 0)) {
      this.leaveOutDevice(parent, name, entry);
      return;
    }
    this.create(parent, name, () => mknodAt(parent, name, type | entry.mode, device));
    setNodeAttributes(parent, name, entry, 'special', this.rules, HAS_NOTHING);
    if (type !== S_IFCHR || device !== 0) return;
    const status = statAt(parent, name);
    if (status !== undefined) this.implied.ownDevice(this.root.realPathOf(parent, name), status.inode);
  }

  /** What the layers below have of that name is hidden all the same. */
  private leaveOutDevice(parent: number, name: Buffer, entry: TarEntry): void {
    this.removeAll(parent, name);
    this.whiteouts.delete(parent, this.realParent, name.subarray(0, -1), entry);
    this.squash?.device(parent, name, entry);
  }

  /** What something new in `parent` has already. */
  private has(parent: number, entry: TarEntry): Has {
    return this.squash === undefined ? this.newNodes.has(parent, entry) : HAS_NOTHING;
  }

  /** What a deletion that comes later must not leave to be found, in a full copy of the layers below. */
  private removeFirst(path: string): void {
    const { parent: above, name } = splitPath(Buffer.from(path, 'latin1'));
    let parent: number;
    try {
      parent = this.root.directory(above);
    } catch (error) {
      if (leadsNowhere(error)) return; // the layer itself makes the way there
      throw error;
    }
    this.enterOldDirectory(parent, above);
    if (this.realParent === above.toString('latin1')) this.removeAll(parent, cString(name));
  }

  /** Removes what is in the way, and forgets directories that went with it. */
  private removeAll(parent: number, name: Buffer): void {
    this.root.removeAll(parent, name, this.implied.gone);
  }

  /** A directory that the layers below may have made, and that this layer may never name. */
  private enterOldDirectory(parent: number, parentPath: Buffer): void {
    const path = parentPath.toString('latin1');
    this.realParent = this.root.realPath(parent);
    this.late.followed(path, this.realParent);
    if (!this.directoryTimes.has(path)) this.directoryTimes.keep(parent, this.realParent);
  }

  /** A failure in an entry as an UnpackError that names it. */
  private guard(step: () => void): void {
    try {
      step();
    } catch (error) {
      throw entryError(error, this.current);
    }
  }
}
