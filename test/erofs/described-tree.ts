import type { Extent } from '../../src/erofs/file-contents.ts';
import { MemoryTree } from '../../src/erofs/memory-tree.ts';
import { cString, makeDevice, S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT } from '../../src/system/files.ts';

/** A file or directory of a described tree. Attribute names are bytes as latin1. */
export interface Described {
  /** Permission bits; for a device or a FIFO with its type. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly seconds?: number;
  readonly nanoseconds?: number;
  readonly device?: { readonly major: number; readonly minor: number };
  readonly target?: Buffer;
  readonly xattrs?: Readonly<Record<string, Buffer>>;
  readonly size?: number;
  readonly extents?: readonly Extent[];
  /** By name, bytes as latin1. */
  readonly entries?: ReadonlyMap<string, Described>;
}

const SPECIAL = new Set([S_IFCHR, S_IFBLK, S_IFIFO]);

/** A tree in memory that has what a test describes. One object in two places is one file with two names. */
export function describedTree(root: Described): MemoryTree {
  const tree = new MemoryTree();
  const places = new Map<Described, { readonly dir: number; readonly name: Buffer }>();
  const fill = (dir: number, { entries = new Map() }: Described): void => {
    for (const [text, file] of entries) add(dir, cString(Buffer.from(text, 'latin1')), file);
  };
  const add = (dir: number, name: Buffer, file: Described): void => {
    const known = places.get(file);
    if (known !== undefined && file.entries === undefined) {
      tree.linkAt(known.dir, known.name, dir, name);
      return;
    }
    places.set(file, { dir, name });
    make(tree, dir, name, file);
    if (file.entries !== undefined) fill(tree.openDirectory(dir, name), file);
    setAttributes(tree, dir, name, file);
  };
  fill(tree.root, root);
  setAttributes(tree, tree.root, cString('.'), root);
  return tree;
}

function make(tree: MemoryTree, dir: number, name: Buffer, file: Described): void {
  const { mode = 0o644, device = { major: 0, minor: 0 }, extents = [], size = 0 } = file;
  if (file.entries !== undefined) tree.mkdirAt(dir, name, 0o755);
  else if (file.target !== undefined) tree.symlinkAt(cString(file.target), dir, name);
  else if (SPECIAL.has(mode & S_IFMT)) tree.mknodAt(dir, name, mode, makeDevice(device.major, device.minor));
  else {
    const made = tree.createFile(dir, name, 0o644);
    for (const { position, length, offset } of extents) tree.write(made, Buffer.alloc(length), position, offset);
    tree.truncate(made, size);
  }
}

function setAttributes(tree: MemoryTree, dir: number, name: Buffer, file: Described): void {
  tree.chownAt(dir, name, file.uid ?? 0, file.gid ?? 0);
  for (const [key, value] of Object.entries(file.xattrs ?? {})) tree.setXattrAt(dir, name, cString(key), value);
  if (file.target === undefined) tree.chmodAt(dir, name, (file.mode ?? 0o644) & 0o7777);
  const time = { seconds: file.seconds ?? 0, nanoseconds: file.nanoseconds ?? 0 };
  tree.utimensAt(dir, name, time, time);
}
