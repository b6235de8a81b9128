import { showName } from '../archive/entry.ts';
import { UnpackError } from '../errors.ts';
import { cString, linkAt, S_IFDIR, S_IFMT } from '../system/files.ts';
import { SLASH, splitPath } from './paths.ts';
import type { Place, Root } from './root.ts';

/**
 * What a hard link is to: a symbolic link itself, but where a slash follows what that leads to, as containerd has it.
 * @throws UnpackError LAYER_CORRUPT where that is nothing or a directory; a system error as `Root.directory`
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
 * @throws UnpackError LAYER_CORRUPT where there is nothing that can be linked to; system errors
 */
export function makeHardLink(root: Root, linkName: Buffer, parent: number, name: Buffer): void {
  try {
    const target = hardLinkTarget(root, linkName);
    linkAt(target.parent, target.name, parent, name);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'EPERM' && code !== 'ENOTDIR') throw error;
    const why = code === 'EPERM' ? 'which cannot be linked to' : 'which this layer does not hold';
    throw new UnpackError('LAYER_CORRUPT', `it is a hard link to ${showName(linkName)}, ${why}`);
  }
}

function stripSlashes(path: Buffer): Buffer {
  let end = path.length;
  while (end > 0 && path[end - 1] === SLASH) end--;
  return path.subarray(0, end);
}
