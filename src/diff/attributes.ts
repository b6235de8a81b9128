import { showName, type TarEntry } from '../archive/entry.ts';
import { errnoOf } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { cString } from '../system/files.ts';
import type { LayerTree } from './layer-tree.ts';
import type { LeftOut } from './left-out.ts';
import { isForRoot, type Squash } from './ownership.ts';
import type { DiffTarget } from './target.ts';

/** How the attributes of a layer's entries are applied. */
export interface AttributeRules {
  readonly tree: LayerTree;
  /** Prefixes of extended attributes that control overlayfs. An archive must not set them. */
  readonly forbidden: readonly string[];
  /** Set if owners are not kept. */
  readonly squash: Squash | undefined;
  /**
   * Whether the tree will be copied. If so, an empty file capability is left out, because the kernel can set but not
   * read it.
   */
  readonly copied: boolean;
  readonly leftOut: LeftOut;
}

export function attributeRules(
  target: DiffTarget,
  tree: LayerTree,
  squash: Squash | undefined,
  leftOut: LeftOut,
): AttributeRules {
  return {
    tree,
    forbidden: target.opaqueXattr.startsWith('user.') ? ['trusted.', 'user.overlay.'] : ['trusted.'],
    squash,
    copied: target.copied,
    leftOut,
  };
}

/** Which attributes of a new file already have the values of its entry (initial-attributes.ts). */
export interface Has {
  readonly owner: boolean;
  readonly mode: boolean;
}

export const HAS_NOTHING: Has = { owner: false, mode: false };

/**
 * Sets owner, extended attributes, mode and times of a regular file, in this order, because a change of the owner clears
 * setuid bits and file capabilities.
 */
export function setFileAttributes(fd: number, entry: TarEntry, rules: AttributeRules, has: Has): void {
  const { tree, squash } = rules;
  if (squash !== undefined) squash.owner(entry);
  else if (!has.owner) tree.chownFd(fd, entry.uid, entry.gid);
  if (entry.xattrs !== undefined) {
    setXattrs(entry, rules, true, (key, value) => tree.setXattrFd(fd, key, value));
  }
  if (!has.mode) tree.chmodFd(fd, squash === undefined ? entry.mode : squash.mode(entry, 'file'));
  tree.utimensFd(fd, entry.atime, entry.mtime);
}

/**
 * The same for entries that are not regular files. The arguments are an open directory and a name; a symbolic link is
 * not followed.
 * @param kind a link has no mode; the times of a directory are set after the last entry (directory-times.ts)
 */
export function setNodeAttributes(
  parent: number,
  name: Buffer,
  entry: TarEntry,
  kind: 'file' | 'link' | 'directory' | 'special',
  rules: AttributeRules,
  has: Has,
): void {
  const { tree, squash } = rules;
  if (squash !== undefined) squash.owner(entry);
  else if (!has.owner) tree.chownAt(parent, name, entry.uid, entry.gid);
  if (entry.xattrs !== undefined) {
    const carriesUser = kind === 'file' || kind === 'directory';
    // to set attributes, a user needs write permission, and the mode of a hard link's target can deny it
    if (squash !== undefined && kind === 'file') tree.chmodAt(parent, name, entry.mode | 0o600);
    setXattrs(entry, rules, carriesUser, (key, value) => tree.setXattrAt(parent, name, key, value));
  }
  if (kind !== 'link' && !has.mode) {
    const mode = squash === undefined ? entry.mode : squash.mode(entry, kind);
    tree.chmodAt(
      parent,
      name,
      squash !== undefined && kind === 'directory' ? squash.directory(parent, name, mode) : mode,
    );
  }
  if (kind !== 'directory') tree.utimensAt(parent, name, entry.atime, entry.mtime);
}

/** Errors for a name or a value that the kernel does not accept. */
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
    if (key === '') throw new UnpackError('LAYER_CORRUPT', 'an extended attribute has an empty name');
    try {
      setFitting(rules.tree, key, value, () => set(cString(Buffer.from(key, 'latin1')), value));
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
 * Sets an extended attribute, and distinguishes a full disk from an attribute that is too large. ext4 keeps all
 * extended attributes of a file in one block and fails with ENOSPC when the block is full. If the disk has free space,
 * the call is repeated once; a second ENOSPC means that the attribute does not fit.
 * @param key bytes as latin1
 * @throws UnpackError LIMIT_EXCEEDED; system errors
 */
export function setFitting(tree: LayerTree, key: string, value: Buffer, set: () => void): void {
  for (let again = false; ; again = true) {
    try {
      set();
      return;
    } catch (error) {
      const code = errnoOf(error);
      const full = code === 'ENOSPC';
      if (code !== 'E2BIG' && !(full && tree.hasRoom())) throw error;
      if (full && !again) continue;
      const why = full
        ? 'can store beside the others of the file, though it has free space (ext4 has one block for all of them); XFS stores 64 KiB of each'
        : 'can store (64 KiB on Linux)';
      throw new UnpackError(
        'LIMIT_EXCEEDED',
        `its extended attribute ${showName(Buffer.from(key, 'latin1'))} of ${value.length} bytes is larger than the file system ${why}`,
        { cause: error },
      );
    }
  }
}
