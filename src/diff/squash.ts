import { showName, type TarEntry } from '../archive/entry.ts';
import { statAt } from '../system/files.ts';
import { type DirectoryMode, keepsOwnerOut, OWNER_RIGHTS } from './directory-modes.ts';
import type { Remembered } from './remembered.ts';
import { isOverlayWhiteout, type Root } from './root.ts';
import type { Warnings } from './warnings.ts';

/** What it takes to copy a file, which the native store does with every one. */
const READABLE = 0o400;

/**
 * How a layer is written by a user who is not root (`UNPACK_OWNERSHIP=squash`): every file belongs to that user, there
 * are no devices, and attributes that only root may set are left out. All else is as root writes it: setuid, setgid and
 * sticky bits too, which mean something again where the user is root, in a user namespace of its own. containers/storage
 * does the same with `ignore_chown_errors`.
 *
 * The store is closed to other users, so that a setuid program in it is nobody's way to become its owner.
 *
 * What is to be closed to its owner is closed last: a directory of mode 0555 would otherwise take no entries.
 */
export class Squash {
  private readonly directories = new Map<bigint, DirectoryMode>();
  /** Real paths of devices that were left out. */
  private readonly devices = new Set<string>();
  private readonly root: Root;
  private readonly remembered: Remembered;
  private readonly warnings: Warnings;
  /** The tree will be copied by the same user, who must be able to read all of it and to change the copy. */
  private readonly copied: boolean;
  private readonly user = process.geteuid?.() ?? 0;

  constructor(root: Root, warnings: Warnings, copied: boolean, remembered: Remembered) {
    this.remembered = remembered;
    this.root = root;
    this.warnings = warnings;
    this.copied = copied;
  }

  /** The entry's owner is not kept. That root's files become this user's is the rule and is not told. */
  owner({ name, uid, gid }: TarEntry): void {
    if ((uid === 0 && gid === 0) || uid === this.user) return;
    this.warnings.add(
      `left out the owner of ${showName(name)} (${uid}:${gid}): with UNPACK_OWNERSHIP=squash all belongs to user ${this.user}`,
    );
  }

  /** The mode that a file or a directory ends with. */
  mode({ name, mode }: TarEntry, kind: 'file' | 'directory' | 'special'): number {
    if (!this.copied || kind === 'special') return mode;
    const copyable = mode | (kind === 'file' ? READABLE : OWNER_RIGHTS);
    if (copyable !== mode) {
      this.warnings.add(
        `added rights of the owner to ${showName(name)} (mode ${mode.toString(8).padStart(4, '0')}): without them a native store could not copy it`,
      );
    }
    return copyable;
  }

  /** An entry has given a directory this mode. @returns what it gets for now */
  directory(parent: number, name: Buffer, mode: number): number {
    const closed = keepsOwnerOut(mode);
    if (!closed && this.directories.size === 0) return mode;
    const inode = statAt(parent, name)?.inode;
    if (inode === undefined) return mode;
    if (closed)
      this.directories.set(inode, { path: this.remembered.path(this.root.realPathOf(parent, name)), inode, mode });
    else this.directories.delete(inode);
    return mode | OWNER_RIGHTS;
  }

  /** A directory was made that no entry names: its inode may have been another's before. */
  madeUnnamed(inode: bigint): void {
    this.directories.delete(inode);
  }

  device(parent: number, name: Buffer, entry: TarEntry): void {
    this.devices.add(this.remembered.path(this.root.realPathOf(parent, name)));
    this.warnings.add(
      `left out the device ${showName(entry.name)} (${entry.type} ${entry.devMajor}:${entry.devMinor}): with UNPACK_OWNERSHIP=squash there are none`,
    );
  }

  /** Whether `name` would be a device that was left out, so that a link to it can only be left out too. */
  isDevice(parent: number, name: Buffer): boolean {
    if (this.devices.size === 0 || !this.devices.has(this.root.realPathOf(parent, name))) return false;
    const status = statAt(parent, name);
    return status === undefined || isOverlayWhiteout(status);
  }

  /** The directories that are still open to their owner and must not be in the end. */
  directoryModes(): DirectoryMode[] {
    return [...this.directories.values()];
  }
}

/** What an ordinary user may not set, or not with the users that it names, and what is therefore left out. */
export function isForRoot(key: string, code: string | undefined): boolean {
  if (code === 'EPERM') return !key.startsWith('user.');
  // an access control list of users that this user namespace has not
  return code === 'EINVAL' && key.startsWith('system.posix_acl_');
}
