import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import {
  AT_FDCWD,
  close,
  cString,
  O,
  openAt,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  statFd,
  xattrsOfPathFd,
} from '../../src/system/files.ts';

/** A node of a tree, in a form that can be compared and printed. */
export interface Node {
  readonly type: 'file' | 'directory' | 'symlink' | 'character' | 'block' | 'fifo' | 'other';
  readonly mode: string;
  readonly owner: string;
  /** The text of a file. For a long or binary file, its digest. */
  readonly content?: string;
  readonly size?: number;
  readonly target?: string;
  readonly device?: string;
  /** Nanoseconds since 1970. */
  readonly mtime: bigint;
  readonly xattrs?: Readonly<Record<string, string>>;
  /** The first path of its hard-link group. */
  readonly linkedTo?: string;
}

const TYPES: Readonly<Record<number, Node['type']>> = {
  [S_IFREG]: 'file',
  [S_IFDIR]: 'directory',
  [S_IFLNK]: 'symlink',
  [S_IFCHR]: 'character',
  [S_IFBLK]: 'block',
  [S_IFIFO]: 'fifo',
};

/** Every path below `root`, and its node. Names are bytes, decoded as latin1. */
export function readTree(root: string): Record<string, Node> {
  const tree: Record<string, Node> = {};
  const groups = new Map<bigint, string>();
  const visit = (path: Buffer, shown: string): void => {
    for (const name of readdirSync(path, { encoding: 'buffer' }).sort(Buffer.compare)) {
      const child = Buffer.concat([path, Buffer.from('/'), name]);
      const key = shown === '' ? name.toString('latin1') : `${shown}/${name.toString('latin1')}`;
      const node = nodeAt(child, key, groups);
      tree[key] = node;
      if (node.type === 'directory') visit(child, key);
    }
  };
  visit(Buffer.from(root), '');
  return tree;
}

function nodeAt(path: Buffer, key: string, groups: Map<bigint, string>): Node {
  const stat = lstatSync(path, { bigint: true });
  const fd = openAt(AT_FDCWD, cString(path), O.PATH | O.NOFOLLOW);
  try {
    const { major, minor, mode } = statFd(fd);
    const type = TYPES[mode & S_IFMT] ?? 'other';
    const xattrs = type === 'symlink' ? new Map<string, Buffer>() : xattrsOfPathFd(fd);
    const first = groups.get(stat.ino);
    if (stat.nlink > 1n && type !== 'directory' && first === undefined) groups.set(stat.ino, key);
    return {
      type,
      mode: (mode & 0o7777).toString(8).padStart(4, '0'),
      owner: `${stat.uid}:${stat.gid}`,
      ...(type === 'file' ? { content: shortContent(path), size: Number(stat.size) } : {}),
      ...(type === 'symlink' ? { target: readlinkSync(path, 'buffer').toString('latin1') } : {}),
      ...(type === 'character' || type === 'block' ? { device: `${major}:${minor}` } : {}),
      mtime: stat.mtimeNs,
      ...(xattrs.size === 0
        ? {}
        : { xattrs: Object.fromEntries([...xattrs].sort().map(([name, value]) => [name, value.toString('latin1')])) }),
      ...(first === undefined ? {} : { linkedTo: first }),
    };
  } finally {
    close(fd);
  }
}

function shortContent(path: Buffer): string {
  const bytes = readFileSync(path);
  if (bytes.length <= 64 && bytes.every((byte) => byte >= 0x20 && byte < 0x7f)) return bytes.toString('latin1');
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** The paths of a tree. */
export const paths = (root: string): string[] => Object.keys(readTree(root));
