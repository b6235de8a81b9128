import type { Extent, LayerInodes } from '../../src/erofs/layer-inodes.ts';
import { S_IFDIR, S_IFLNK, S_IFREG } from '../../src/system/files.ts';

/** A file or directory of a described tree. Names and attribute keys are bytes as latin1. */
export interface Described {
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
  readonly entries?: ReadonlyMap<string, Described>;
}

/** The inodes of a tree that a test describes. One object in two places is one file with two names. */
export function describedInodes(root: Described): LayerInodes {
  const files: Described[] = [];
  const numbers = new Map<Described, number>();
  const parents: number[] = [];
  const entries: { readonly name: Buffer; readonly inode: number }[] = [];
  const lists: Int32Array[] = [];
  const add = (file: Described, parent: number): number => {
    const known = numbers.get(file);
    if (known !== undefined) return known;
    const number = files.push(file) - 1;
    numbers.set(file, number);
    parents[number] = parent;
    const list = [...(file.entries ?? [])]
      .sort(([a], [b]) => Buffer.compare(Buffer.from(a, 'latin1'), Buffer.from(b, 'latin1')))
      .map(([name, child]) => entries.push({ name: Buffer.from(name, 'latin1'), inode: add(child, number) }) - 1);
    lists[number] = Int32Array.from(list);
    return number;
  };
  add(root, 0);
  const at = <T>(values: readonly T[], index: number): T => {
    const value = values[index];
    if (value === undefined) throw new Error(`no number ${index}`);
    return value;
  };
  const typeOf = ({ entries, target }: Described): number =>
    entries !== undefined ? S_IFDIR : target !== undefined ? S_IFLNK : S_IFREG;
  return {
    count: files.length,
    mode: (inode) => {
      const file = at(files, inode);
      const mode = file.mode ?? 0o644;
      return mode > 0o7777 ? mode : typeOf(file) | mode;
    },
    uid: (inode) => at(files, inode).uid ?? 0,
    gid: (inode) => at(files, inode).gid ?? 0,
    seconds: (inode) => at(files, inode).seconds ?? 0,
    nanoseconds: (inode) => at(files, inode).nanoseconds ?? 0,
    size: (inode) => at(files, inode).target?.length ?? at(files, inode).size ?? 0,
    contentOffset: (inode) => {
      const { size = 0, extents = [] } = at(files, inode);
      const [first] = extents;
      if (size === 0) return 0;
      return first?.position === 0 && first.length === size ? first.offset : -1;
    },
    device: (inode) => at(files, inode).device ?? { major: 0, minor: 0 },
    target: (inode) => at(files, inode).target ?? Buffer.alloc(0),
    xattrs: (inode) => {
      const { xattrs } = at(files, inode);
      return xattrs === undefined ? undefined : new Map(Object.entries(xattrs));
    },
    extents: (inode) => at(files, inode).extents ?? [],
    parent: (directory) => at(parents, directory),
    entries: (directory) => at(lists, directory),
    inode: (entry) => at(entries, entry).inode,
    nameLength: (entry) => at(entries, entry).name.length,
    copyName: (entry, to, position) => {
      at(entries, entry).name.copy(to, position);
    },
  };
}
