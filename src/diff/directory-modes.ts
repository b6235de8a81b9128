import { chmodAt, cString, S_IFDIR, S_IFMT, statAt } from '../system/files.ts';
import { splitPath } from './paths.ts';
import type { Root } from './root.ts';

/** What an ordinary user needs of a directory of its own to work in it. */
export const OWNER_RIGHTS = 0o700;

/** A directory whose mode keeps even its owner out, unless that is root. */
export interface DirectoryMode {
  /** Its real path below the root, without links, bytes as latin1. */
  readonly path: string;
  readonly inode: bigint;
  readonly mode: number;
}

export const keepsOwnerOut = (mode: number): boolean => (mode & OWNER_RIGHTS) !== OWNER_RIGHTS;

/** Gives directories their modes: those inside before those around them, which then can't be entered any more. */
export function* closeDirectories(root: Root, modes: readonly DirectoryMode[]): Generator<void> {
  for (const directory of [...modes].sort((a, b) => b.path.length - a.path.length)) {
    yield;
    change(root, directory, 0);
  }
}

/** Lets the owner into them once more, from the outside inwards. */
export function* openDirectories(root: Root, modes: readonly DirectoryMode[]): Generator<void> {
  for (const directory of [...modes].sort((a, b) => a.path.length - b.path.length)) {
    yield;
    change(root, directory, OWNER_RIGHTS);
  }
}

/** A directory that is not there any more, because a later entry replaced it, is passed over. */
function change(root: Root, { path, inode, mode }: DirectoryMode, more: number): void {
  const { parent, name } = splitPath(Buffer.from(path, 'latin1'));
  let directory: number;
  try {
    directory = root.directory(parent);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return;
    throw error;
  }
  const cName = cString(name);
  const status = statAt(directory, cName);
  if (status?.inode !== inode || (status.mode & S_IFMT) !== S_IFDIR) return;
  chmodAt(directory, cName, mode | more);
}
