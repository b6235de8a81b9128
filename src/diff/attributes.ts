import { showName, type TarEntry } from '../archive/entry.ts';
import { errnoOf } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import {
  chmodAt,
  chmodFd,
  chownAt,
  chownFd,
  cString,
  setXattrAt,
  setXattrFd,
  utimensAt,
  utimensFd,
} from '../system/files.ts';
import { hasRoom } from '../system/space.ts';
import type { LeftOut } from './left-out.ts';
import { isForRoot, type Squash } from './ownership.ts';

/** Which extended attributes of an archive are never applied, and what happens to those that cannot be. */
export interface AttributeRules {
  /** A path on the file system that is written to. */
  readonly place: string;
  /** Attributes that begin so steer the overlay itself and are not an archive's to set. */
  readonly forbidden: readonly string[];
  /** Set where owners are not kept. */
  readonly squash: Squash | undefined;
  /** The tree is copied to write the layers above: the kernel takes an empty file capability and lets nobody read it. */
  readonly copied: boolean;
  readonly leftOut: LeftOut;
}

/** Which attributes something new has already as its entry says them. */
export interface Has {
  readonly owner: boolean;
  readonly mode: boolean;
}

export const HAS_NOTHING: Has = { owner: false, mode: false };

/**
 * Owner, extended attributes, mode and times of a regular file, in this order: changing the owner clears setuid and file
 * capabilities.
 */
export function setFileAttributes(fd: number, entry: TarEntry, rules: AttributeRules, has: Has): void {
  const { squash } = rules;
  if (squash !== undefined) squash.owner(entry);
  else if (!has.owner) chownFd(fd, entry.uid, entry.gid);
  if (entry.xattrs !== undefined) {
    setXattrs(entry, rules, true, (key, value) => setXattrFd(fd, key, value));
  }
  if (!has.mode) chmodFd(fd, squash === undefined ? entry.mode : squash.mode(entry, 'file'));
  utimensFd(fd, entry.atime, entry.mtime);
}

/**
 * The same for anything else, by its name in an open directory, which is never followed.
 * @param kind a link has no mode of its own; a directory's times are set once everything inside it is written
 */
export function setNodeAttributes(
  parent: number,
  name: Buffer,
  entry: TarEntry,
  kind: 'file' | 'link' | 'directory' | 'special',
  rules: AttributeRules,
  has: Has,
): void {
  const { squash } = rules;
  if (squash !== undefined) squash.owner(entry);
  else if (!has.owner) chownAt(parent, name, entry.uid, entry.gid);
  if (entry.xattrs !== undefined) {
    const carriesUser = kind === 'file' || kind === 'directory';
    // an attribute is set by who may write the file, and this one has its mode from the entry that it is a link to
    if (squash !== undefined && kind === 'file') chmodAt(parent, name, entry.mode | 0o600);
    setXattrs(entry, rules, carriesUser, (key, value) => setXattrAt(parent, name, key, value));
  }
  if (kind !== 'link' && !has.mode) {
    const mode = squash === undefined ? entry.mode : squash.mode(entry, kind);
    chmodAt(parent, name, squash !== undefined && kind === 'directory' ? squash.directory(parent, name, mode) : mode);
  }
  if (kind !== 'directory') utimensAt(parent, name, entry.atime, entry.mtime);
}

/** How the kernel says that a name or a value cannot be. */
const NOT_TAKEN = new Set(['EINVAL', 'ERANGE', 'E2BIG', 'EPERM']);

function setXattrs(
  entry: TarEntry,
  rules: AttributeRules,
  carriesUser: boolean,
  set: (key: Buffer, value: Buffer) => void,
): void {
  for (const [key, value] of entry.xattrs ?? []) {
    if (rules.forbidden.some((prefix) => key.startsWith(prefix))) {
      rules.leftOut.xattr(entry, key, 'reserved');
      continue;
    }
    if (rules.copied && key === 'security.capability' && value.length === 0) {
      rules.leftOut.xattr(entry, key, 'empty');
      continue;
    }
    if (key === '') throw new UnpackError('LAYER_CORRUPT', 'it has an extended attribute without a name');
    try {
      setFitting(rules.place, key, value, () => set(cString(Buffer.from(key, 'latin1')), value));
    } catch (error) {
      const code = errnoOf(error);
      const notTaken = error instanceof UnpackError || (code !== undefined && NOT_TAKEN.has(code));
      const unread = entry.libarchiveOnly?.has(key) === true && notTaken;
      if (code === 'ENOTSUP' || code === 'EOPNOTSUPP') rules.leftOut.xattr(entry, key, 'unsupported');
      else if (rules.squash !== undefined && isForRoot(key, code)) rules.leftOut.xattr(entry, key, 'privileged');
      else if (unread) rules.leftOut.xattr(entry, key, 'impossible');
      else if (code === 'EPERM' && key.startsWith('user.') && !carriesUser)
        rules.leftOut.xattr(entry, key, 'notCarried');
      else throw error;
    }
  }
}

/**
 * Sets an extended attribute. ext4 keeps all of a file's in one block, and says of one that finds no place in it what it
 * says when the disk is full. So where there is room that one is tried again, and if it is refused again, it always will be.
 * @param place a path on the same file system
 * @param key bytes as latin1
 * @throws UnpackError LIMIT_EXCEEDED; system errors
 */
export function setFitting(place: string, key: string, value: Buffer, set: () => void): void {
  for (let again = false; ; again = true) {
    try {
      set();
      return;
    } catch (error) {
      const code = errnoOf(error);
      const full = code === 'ENOSPC';
      if (code !== 'E2BIG' && !(full && hasRoom(place))) throw error;
      if (full && !again) continue;
      const why = full
        ? 'takes beside the others of the file, though it has room (ext4 has one block for them all); XFS takes 64 KiB of each'
        : 'takes (64 KiB on Linux)';
      throw new UnpackError(
        'LIMIT_EXCEEDED',
        `its extended attribute ${showName(Buffer.from(key, 'latin1'))} of ${value.length} bytes is more than the file system ${why}`,
        { cause: error },
      );
    }
  }
}
