import type { TarEntry } from '../archive/entry.ts';
import { errnoOf } from '../errno.ts';
import { cString, S_IFDIR, S_IFMT } from '../system/files.ts';
import type { MemoryBudget } from './layer-budget.ts';
import type { LeftOut } from './left-out.ts';
import { splitPath } from './paths.ts';
import { isOverlayWhiteout, type Root } from './root.ts';

/** The mode bits that a user who is not root needs to work in a directory that belongs to this user. */
export const OWNER_RIGHTS = 0o700;

/** The mode bit that is needed to copy a file. The native store copies every file. */
const READABLE = 0o400;

/** A directory whose mode denies access to its owner, unless the owner is root. */
export interface DirectoryMode {
  /** Its real path below the root, without links, bytes as latin1. */
  readonly path: string;
  readonly inode: bigint;
  readonly mode: number;
}

export const deniesOwner = (mode: number): boolean => (mode & OWNER_RIGHTS) !== OWNER_RIGHTS;

/**
 * How a user who is not root writes a layer (`UNPACK_OWNERSHIP=squash`): every file belongs to that user, no devices
 * are made, and attributes that only root can set are left out. Setuid, setgid and sticky bits are kept, because they
 * work again in a user namespace in which the user is root. containers/storage does the same with
 * `ignore_chown_errors`.
 *
 * The store is closed to other users, so nobody else can run a setuid program in it.
 *
 * Modes that deny access to the owner are set after all entries (`closeDirectories`), because entries cannot be written
 * into a directory of mode 0555.
 */
export class Squash {
  private readonly directories = new Map<bigint, DirectoryMode>();
  /** Real paths of devices that were left out. */
  private readonly devices = new Set<string>();
  private readonly root: Root;
  private readonly budget: MemoryBudget;
  private readonly leftOut: LeftOut;
  /** Whether the same user will copy the tree. This user must be able to read the whole tree and to change the copy. */
  private readonly copied: boolean;
  private readonly user = process.geteuid?.() ?? 0;

  constructor(root: Root, leftOut: LeftOut, copied: boolean, budget: MemoryBudget) {
    this.budget = budget;
    this.root = root;
    this.leftOut = leftOut;
    this.copied = copied;
  }

  /**
   * Reports that the entry's owner is not kept. Files of root are not reported, because nearly all files belong to
   * root.
   */
  owner(entry: TarEntry): void {
    const { uid, gid } = entry;
    if ((uid === 0 && gid === 0) || uid === this.user) return;
    this.leftOut.owner(entry, this.user);
  }

  /** @returns the final mode of the file or directory */
  mode(entry: TarEntry, kind: 'file' | 'directory' | 'special'): number {
    const { mode } = entry;
    if (!this.copied || kind === 'special') return mode;
    const copyable = mode | (kind === 'file' ? READABLE : OWNER_RIGHTS);
    if (copyable !== mode) this.leftOut.mode(entry);
    return copyable;
  }

  /**
   * Remembers the mode of a directory if it denies access to the owner.
   * @returns the temporary mode, which the directory has until `closeDirectories`
   */
  directory(parent: number, name: Buffer, mode: number): number {
    const denied = deniesOwner(mode);
    if (!denied && this.directories.size === 0) return mode;
    const inode = this.root.tree.statAt(parent, name)?.inode;
    if (inode === undefined) return mode;
    if (denied) {
      const path = this.budget.charge(this.root.realPathOf(parent, name));
      this.directories.set(inode, { path, inode, mode });
    } else {
      this.directories.delete(inode);
    }
    return mode | OWNER_RIGHTS;
  }

  /** An implied directory was made. Its inode number possibly belonged to a removed directory before. */
  madeImplied(inode: bigint): void {
    this.directories.delete(inode);
  }

  /** A device was left out. */
  device(parent: number, name: Buffer, entry: TarEntry): void {
    this.devices.add(this.budget.charge(this.root.realPathOf(parent, name)));
    this.leftOut.device(entry);
  }

  /** Whether a device was left out at `name`. A hard link to a left-out device must be left out, too. */
  isDevice(parent: number, name: Buffer): boolean {
    if (this.devices.size === 0 || !this.devices.has(this.root.realPathOf(parent, name))) return false;
    const status = this.root.tree.statAt(parent, name);
    return status === undefined || isOverlayWhiteout(status);
  }

  /** Directories whose modes deny access to the owner. They are still open; `closeDirectories` sets their modes. */
  directoryModes(): DirectoryMode[] {
    return [...this.directories.values()];
  }
}

/** Whether an extended attribute failed because only root can set it. @param code the code of the system error */
export function isForRoot(key: string, code: string | undefined): boolean {
  if (code === 'EPERM') return !key.startsWith('user.');
  // an access control list with users that this user namespace does not map
  return code === 'EINVAL' && key.startsWith('system.posix_acl_');
}

/**
 * Sets the modes of directories, children before parents, because a child cannot be reached after its parent is closed.
 */
export function* closeDirectories(root: Root, modes: readonly DirectoryMode[]): Generator<void> {
  for (const directory of [...modes].sort((a, b) => b.path.length - a.path.length)) {
    yield;
    setMode(root, directory, 0);
  }
}

/** Gives the owner access to closed directories again, parents before children. */
export function* openDirectories(root: Root, modes: readonly DirectoryMode[]): Generator<void> {
  for (const directory of [...modes].sort((a, b) => a.path.length - b.path.length)) {
    yield;
    setMode(root, directory, OWNER_RIGHTS);
  }
}

/** Skips a directory that a later entry has replaced. @param more added to the mode */
function setMode(root: Root, { path, inode, mode }: DirectoryMode, more: number): void {
  const { parent, name } = splitPath(Buffer.from(path, 'latin1'));
  let directory: number;
  try {
    directory = root.directory(parent);
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return;
    throw error;
  }
  const cName = cString(name);
  const status = root.tree.statAt(directory, cName);
  if (status?.inode !== inode || (status.mode & S_IFMT) !== S_IFDIR) return;
  root.tree.chmodAt(directory, cName, mode | more);
}
