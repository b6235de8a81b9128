import { showName, type TarEntry } from '../archive/entry.ts';
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
import { isForRoot, type Squash } from './squash.ts';
import type { Warnings } from './warnings.ts';

/** Which extended attributes of an archive are never applied, and what happens to those that cannot be. */
export interface AttributeRules {
  /** Attributes that begin so steer the overlay itself and are not an archive's to set. */
  readonly forbidden: readonly string[];
  /** Set where owners are not kept. */
  readonly squash: Squash | undefined;
  readonly warnings: Warnings;
}

/**
 * Owner, extended attributes, mode and times of a regular file, in this order: changing the owner clears setuid and file
 * capabilities.
 */
export function setFileAttributes(fd: number, entry: TarEntry, rules: AttributeRules): void {
  const { squash } = rules;
  if (squash === undefined) chownFd(fd, entry.uid, entry.gid);
  else squash.owner(entry);
  if (entry.xattrs !== undefined) {
    setXattrs(entry, rules, true, (key, value) => setXattrFd(fd, key, value));
  }
  chmodFd(fd, squash === undefined ? entry.mode : squash.mode(entry, 'file'));
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
  const { squash } = rules;
  if (squash === undefined) chownAt(parent, name, entry.uid, entry.gid);
  else squash.owner(entry);
  if (entry.xattrs !== undefined) {
    const carriesUser = kind === 'file' || kind === 'directory';
    // an attribute is set by who may write the file, and this one has its mode from the entry that it is a link to
    if (squash !== undefined && kind === 'file') chmodAt(parent, name, entry.mode | 0o600);
    setXattrs(entry, rules, carriesUser, (key, value) => setXattrAt(parent, name, key, value));
  }
  if (kind !== 'link') {
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
      const forRoot = rules.squash !== undefined && isForRoot(key, code);
      const notCarried = code === 'EPERM' && key.startsWith('user.') && !carriesUser;
      const unread = entry.libarchiveOnly?.has(key) === true && code !== undefined && NOT_TAKEN.has(code);
      if (!hasNone && !forRoot && !notCarried && !unread) throw error;
      rules.warnings.add(
        `left out the extended attribute ${shown} of ${showName(entry.name)}: ${
          hasNone
            ? 'the file system keeps none of its kind'
            : forRoot
              ? 'only root may set it'
              : unread
                ? 'it is one that there cannot be'
                : 'only files and directories carry it'
        }`,
      );
    }
  }
}
