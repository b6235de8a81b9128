import { showName } from '../archive/entry.ts';
import { errnoOf } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { cString, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../system/files.ts';
import { SLASH, splitPath } from './paths.ts';
import type { Place, Root } from './root.ts';

/**
 * Resolves the target of a hard link. If the target is a symbolic link, the link itself is linked. If a slash or a dot
 * follows its name, the link is followed, as in containerd.
 * @throws UnpackError LAYER_CORRUPT if the target is missing or a directory; system errors as `Root.directory`
 */
export function hardLinkTarget(root: Root, linkName: Buffer): Pick<Place, 'parent' | 'name'> {
  const { parent, name } = splitPath(linkName);
  const text = name.toString('latin1');
  if (text !== '' && text !== '.' && text !== '..') {
    return { parent: root.directory(stripSlashes(parent)), name: cString(name) };
  }
  const place = text === '..' ? undefined : root.resolve(linkName);
  if (place !== undefined && (place.status.mode & S_IFMT) !== S_IFDIR) return place;
  const to = place === undefined && text !== '..' ? 'nothing that this layer holds' : 'a directory';
  throw new UnpackError('LAYER_CORRUPT', `it is a hard link to ${to}, ${showName(linkName)}`);
}

/**
 * Makes `name` in an open directory a hard link.
 * @returns the kind of its target
 * @throws UnpackError LAYER_CORRUPT if the target can't be linked to; system errors
 */
export function makeHardLink(root: Root, linkName: Buffer, parent: number, name: Buffer): 'link' | 'file' | 'special' {
  try {
    const target = hardLinkTarget(root, linkName);
    root.tree.linkAt(target.parent, target.name, parent, name);
  } catch (error) {
    const code = errnoOf(error);
    if (code !== 'ENOENT' && code !== 'EPERM' && code !== 'ENOTDIR') throw error;
    const why = code === 'EPERM' ? 'which cannot be linked to' : 'which this layer does not hold';
    throw new UnpackError('LAYER_CORRUPT', `it is a hard link to ${showName(linkName)}, ${why}`);
  }
  const type = (root.tree.statAt(parent, name)?.mode ?? S_IFREG) & S_IFMT;
  return type === S_IFLNK ? 'link' : type === S_IFREG ? 'file' : 'special';
}

function stripSlashes(path: Buffer): Buffer {
  let end = path.length;
  while (end > 0 && path[end - 1] === SLASH) end--;
  return path.subarray(0, end);
}
