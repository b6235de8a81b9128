import { errnoOf } from '../errno.ts';
import type { Mount } from '../snapshots/snapshotter.ts';
import {
  chmodAt,
  chownAt,
  close,
  cString,
  type FileStatus,
  O,
  openAt,
  setXattrAt,
  statAt,
  statFd,
  utimensAt,
  xattrsOfPathFd,
} from '../system/files.ts';
import { setFitting } from './attributes.ts';
import {
  closeDirectories,
  type DirectoryMode,
  keepsOwnerOut,
  OWNER_RIGHTS,
  openDirectories,
} from './directory-modes.ts';
import type { ImpliedDirectory } from './implied-directories.ts';
import { splitPath } from './paths.ts';
import { leadsNowhere, Root } from './root.ts';

/** Attributes that belong to a layer's own place in an overlay and are not copied from one to another. */
const NOT_COPIED = ['trusted.', 'user.overlay.'];

/**
 * Gives the directories that a layer needed and never named the owner, mode, times and attributes of the same directory
 * in the nearest layer below, as overlayfs would when it copies one up. Where none has it, or the nearest has something
 * else there, it stays as it was made: 0755. A directory that a later entry named only takes the extended attributes
 * that the entry does not give, since containerd copied them before it came to that entry.
 *
 * This is done once everything is written, and in the same way whether the layers below were there from the start or
 * came later, so that the order in which layers are applied leaves no trace. Where owners are not kept, what lies below in
 * a directory that even its owner can't enter is taken for missing.
 * @param lowers directories of the layers below, nearest first
 * @param modes where owners are not kept: directories that get modes which would keep their own owner out
 */
export function settleImpliedDirectories(
  rootPath: string,
  implied: readonly ImpliedDirectory[],
  lowers: readonly string[],
  modes?: readonly DirectoryMode[],
): void {
  const nothing = implied.length === 0 || lowers.length === 0;
  if (nothing && (modes === undefined || modes.length === 0)) return;
  using stack = new DisposableStack();
  const root = stack.use(new Root(rootPath));
  if (nothing) {
    closeDirectories(root, modes ?? []);
    return;
  }
  // they may have been closed before, by a thread that did not know the layers below yet
  if (modes !== undefined) openDirectories(root, modes);
  const closing = modes === undefined ? undefined : [...modes];
  const below = lowers.map((path) => stack.use(new Root(path)));
  /** What a directory would have inherited from the one above, had that been set-group-ID from the start. */
  const groups = new Map<string, number>();
  for (const { path, inode, named, inUnnamed, timed } of implied) {
    const bytes = Buffer.from(path, 'latin1');
    const { parent, name } = splitPath(bytes);
    const cName = cString(name);
    const model = findDirectory(below, bytes);
    const modelStatus = model === undefined ? undefined : statFd(model);
    if (modelStatus !== undefined && (modelStatus.mode & S_ISGID) !== 0) groups.set(path, modelStatus.gid);
    const directory = root.directory(parent);
    const status = statAt(directory, cName);
    if (status?.inode !== inode) continue;
    const group = inUnnamed ? groups.get(parent.toString('latin1')) : undefined;
    if (model !== undefined && modelStatus !== undefined) {
      const { atime, mtime } = timed ? status : modelStatus;
      const from = named ? status : { ...modelStatus, atime, mtime };
      copyAttributes(model, directory, cName, from, { place: rootPath, keep: named, squash: closing !== undefined });
      if (!named && keepsOwnerOut(from.mode)) closing?.push({ path, inode, mode: from.mode & 0o7777 });
    } else if (!named && closing === undefined && group !== undefined) {
      chownAt(directory, cName, status.uid, group);
    }
  }
  if (closing !== undefined) closeDirectories(root, closing);
}

const S_ISGID = 0o2000;

/** The directory at `path` in the nearest layer that has anything there. */
function findDirectory(layers: readonly Root[], path: Buffer): number | undefined {
  for (const layer of layers) {
    try {
      return layer.directory(path);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'ENOENT') continue;
      if (errno === 'EACCES' || leadsNowhere(error)) return undefined;
      throw error;
    }
  }
  return undefined;
}

/**
 * @param how `keep` leaves extended attributes that are there already as they are; with `squash` the owner stays, and has
 *   access until all is done
 */
function copyAttributes(
  model: number,
  parent: number,
  name: Buffer,
  status: FileStatus,
  how: { readonly place: string; readonly keep: boolean; readonly squash: boolean },
): void {
  const { uid, gid, mode, atime, mtime } = status;
  if (!how.squash) chownAt(parent, name, uid, gid);
  const own = how.keep ? xattrNames(parent, name) : undefined;
  for (const [key, value] of how.squash ? readableXattrs(model) : xattrsOfPathFd(model)) {
    if (own?.has(key) || NOT_COPIED.some((prefix) => key.startsWith(prefix))) continue;
    setFitting(how.place, key, value, () => setXattrAt(parent, name, cString(Buffer.from(key, 'latin1')), value));
  }
  chmodAt(parent, name, (mode & 0o7777) | (how.squash ? OWNER_RIGHTS : 0)); // an ACL among the attributes has changed it
  utimensAt(parent, name, atime, mtime);
}

/** A directory that is closed to its owner doesn't tell an ordinary user what it carries. */
function readableXattrs(fd: number): Map<string, Buffer> {
  try {
    return xattrsOfPathFd(fd);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return new Map();
    throw error;
  }
}

function xattrNames(parent: number, name: Buffer): Set<string> {
  const fd = openAt(parent, name, O.PATH | O.NOFOLLOW);
  try {
    return new Set(xattrsOfPathFd(fd).keys());
  } finally {
    close(fd);
  }
}

/** The directories of the layers that a view shows, nearest first. */
export function lowerDirectories(mounts: readonly Mount[]): string[] {
  return mounts.flatMap((mount) => {
    if (mount.type === 'bind') return [mount.source];
    const lowers = mount.options.find((option) => option.startsWith('lowerdir='));
    return lowers?.slice('lowerdir='.length).split(':') ?? [];
  });
}
