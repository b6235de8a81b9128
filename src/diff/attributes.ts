import { showName, type TarEntry } from '../archive/entry.ts';
import {
  chmodFd,
  chmodPathFd,
  chownAt,
  chownFd,
  close,
  cString,
  O,
  openAt,
  setXattrAt,
  setXattrFd,
  utimensAt,
  utimensFd,
} from '../system/files.ts';
import type { Warnings } from './warnings.ts';

/** Which extended attributes of an archive are never applied, and what happens to those that cannot be. */
export interface AttributeRules {
  /** Attributes that begin so steer the overlay itself and are not an archive's to set. */
  readonly forbidden: readonly string[];
  readonly warnings: Warnings;
}

/**
 * Owner, extended attributes, mode and times of a regular file, in this order: changing the owner clears setuid and file
 * capabilities.
 */
export function setFileAttributes(fd: number, entry: TarEntry, rules: AttributeRules): void {
  chownFd(fd, entry.uid, entry.gid);
  if (entry.xattrs !== undefined) {
    setXattrs(entry, rules, true, (key, value) => setXattrFd(fd, key, value));
  }
  chmodFd(fd, entry.mode);
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
): void {
  chownAt(parent, name, entry.uid, entry.gid);
  if (entry.xattrs !== undefined) {
    const carriesUser = kind === 'file' || kind === 'directory';
    setXattrs(entry, rules, carriesUser, (key, value) => setXattrAt(parent, name, key, value));
  }
  if (kind !== 'link') setMode(parent, name, entry.mode);
  if (kind !== 'directory') utimensAt(parent, name, entry.atime, entry.mtime);
}

/** chmod(2) that follows nothing: the name is pinned first, since Linux before 6.6 has no such call. */
export function setMode(parent: number, name: Buffer, mode: number): void {
  const fd = openAt(parent, name, O.PATH | O.NOFOLLOW);
  try {
    chmodPathFd(fd, mode);
  } finally {
    close(fd);
  }
}

function setXattrs(
  entry: TarEntry,
  rules: AttributeRules,
  carriesUser: boolean,
  set: (key: Buffer, value: Buffer) => void,
): void {
  for (const [key, value] of entry.xattrs ?? []) {
    const shown = showName(Buffer.from(key, 'latin1')).slice(1, -1);
    if (rules.forbidden.some((prefix) => key.startsWith(prefix))) {
      rules.warnings.add(`left out the extended attribute ${shown} of ${showName(entry.name)}: a layer may not set it`);
      continue;
    }
    try {
      set(cString(Buffer.from(key, 'latin1')), value);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const hasNone = code === 'ENOTSUP' || code === 'EOPNOTSUPP';
      if (!hasNone && !(code === 'EPERM' && key.startsWith('user.') && !carriesUser)) throw error;
      rules.warnings.add(
        `left out the extended attribute ${shown} of ${showName(entry.name)}: ${
          hasNone ? 'the file system keeps none of its kind' : 'only files and directories carry it'
        }`,
      );
    }
  }
}
