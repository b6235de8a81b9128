import type { Mount } from '../snapshots/snapshotter.ts';
import { chownAt, cString, setXattrAt, statAt, statFd, utimensAt, xattrsOfPathFd } from '../system/files.ts';
import { setMode } from './attributes.ts';
import { type ImpliedDirectory, Root, splitPath } from './root.ts';

/** Attributes that belong to a layer's own place in an overlay and are not copied from one to another. */
const NOT_COPIED = ['trusted.', 'user.overlay.'];

/**
 * Gives the directories that a layer needed and never named the owner, mode, times and attributes of the same directory
 * in the nearest layer below, as overlayfs would when it copies one up. Where none has it, or the nearest has something
 * else there, it stays as it was made: 0755.
 *
 * This is done once everything is written, and in the same way whether the layers below were there from the start or
 * came later, so that the order in which layers are applied leaves no trace.
 * @param lowers directories of the layers below, nearest first
 */
export function settleImpliedDirectories(
  rootPath: string,
  implied: readonly ImpliedDirectory[],
  lowers: readonly string[],
): void {
  if (implied.length === 0 || lowers.length === 0) return;
  using stack = new DisposableStack();
  const root = stack.use(new Root(rootPath));
  const below = lowers.map((path) => stack.use(new Root(path)));
  for (const { path, inode } of implied) {
    const bytes = Buffer.from(path, 'latin1');
    const { parent, name } = splitPath(bytes);
    const cName = cString(name);
    const directory = root.directory(parent);
    if (statAt(directory, cName)?.inode !== inode) continue;
    const model = findDirectory(below, bytes);
    if (model !== undefined) copyAttributes(model, directory, cName);
  }
}

/** The directory at `path` in the nearest layer that has anything there. */
function findDirectory(layers: readonly Root[], path: Buffer): number | undefined {
  for (const layer of layers) {
    try {
      return layer.directory(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return undefined;
    }
  }
  return undefined;
}

function copyAttributes(model: number, parent: number, name: Buffer): void {
  const { uid, gid, mode, atime, mtime } = statFd(model);
  chownAt(parent, name, uid, gid);
  for (const [key, value] of xattrsOfPathFd(model)) {
    if (NOT_COPIED.some((prefix) => key.startsWith(prefix))) continue;
    setXattrAt(parent, name, cString(Buffer.from(key, 'latin1')), value);
  }
  setMode(parent, name, mode & 0o7777);
  utimensAt(parent, name, atime, mtime);
}

/** The directories of the layers that a view shows, nearest first. */
export function lowerDirectories(mounts: readonly Mount[]): string[] {
  return mounts.flatMap((mount) => {
    if (mount.type === 'bind') return [mount.source];
    const lowers = mount.options.find((option) => option.startsWith('lowerdir='));
    return lowers?.slice('lowerdir='.length).split(':') ?? [];
  });
}
