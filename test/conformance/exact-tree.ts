import { createHash } from 'node:crypto';
import { closeSync, constants, lstatSync, openSync, readdirSync, readlinkSync, readSync } from 'node:fs';
import {
  AT_FDCWD,
  cString,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  statAt,
} from '../../src/system/files.ts';
import { libc } from '../../src/system/libc.ts';

export type NodeType = 'file' | 'directory' | 'link' | 'character' | 'block' | 'fifo' | 'other';

/** All facts about one path of a snapshot. */
export interface ExactNode {
  readonly type: NodeType;
  /** Facts that must be the same, as text: mode, owner, size, content, target, device, xattr NAME, linked to. */
  readonly facts: ReadonlyMap<string, string>;
  /** Nanoseconds since 1970. */
  readonly mtime: bigint;
  /** Read first, because reading the file may change it. */
  readonly atime: bigint;
}

/** By path: `.` for the root, `a/b` for the rest; bytes outside of printable ASCII as `\xNN`. */
export type ExactTree = ReadonlyMap<string, ExactNode>;

const TYPES: Readonly<Record<number, NodeType>> = {
  [S_IFREG]: 'file',
  [S_IFDIR]: 'directory',
  [S_IFLNK]: 'link',
  [S_IFCHR]: 'character',
  [S_IFBLK]: 'block',
  [S_IFIFO]: 'fifo',
};

/**
 * Reads a snapshot's folder, including its root. Access times are read first, because listing and reading may change them.
 * @param leftOut names in the root that are skipped
 */
export function readExactTree(root: string, leftOut?: RegExp): ExactTree {
  const tree = new Map<string, ExactNode>();
  const groups = new Map<bigint, string>();
  const visit = (path: Buffer, shown: string): void => {
    const node = readNode(path, shown, groups);
    if (node === undefined) return; // overlayfs lists a whiteout, though it does not exist, in a directory that no layer below has
    tree.set(shown, node);
    if (node.type !== 'directory') return;
    for (const name of readdirSync(path, { encoding: 'buffer' }).sort(Buffer.compare)) {
      if (shown === '.' && leftOut?.test(name.toString('latin1'))) continue;
      visit(Buffer.concat([path, Buffer.from('/'), name]), shown === '.' ? show(name) : `${shown}/${show(name)}`);
    }
  };
  visit(Buffer.from(root), '.');
  return tree;
}

function readNode(path: Buffer, shown: string, groups: Map<bigint, string>): ExactNode | undefined {
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  const status = statAt(AT_FDCWD, cString(path));
  if (stat === undefined || status === undefined) return undefined;
  const { mtimeNs, atimeNs, nlink, ino, size } = stat;
  const type = TYPES[status.mode & S_IFMT] ?? 'other';
  const facts = new Map<string, string>([
    ['mode', (status.mode & 0o7777).toString(8).padStart(4, '0')],
    ['owner', `${status.uid}:${status.gid}`],
  ]);
  if (type === 'file') facts.set('size', `${size}`).set('content', digest(path));
  if (type === 'link') facts.set('target', show(readlinkSync(path, { encoding: 'buffer' })));
  if (type === 'character' || type === 'block') facts.set('device', `${status.major}:${status.minor}`);
  for (const [name, value] of xattrsOf(path)) facts.set(`xattr ${name}`, show(value));
  if (type !== 'directory' && nlink > 1n) {
    const first = groups.get(ino);
    if (first === undefined) groups.set(ino, shown);
    else facts.set('linked to', first);
  }
  return { type, facts, mtime: mtimeNs, atime: atimeNs };
}

/** SHA-256 of a file's content, without a change of its access time. */
function digest(path: Buffer): string {
  const hash = createHash('sha256');
  const buffer = Buffer.alloc(1 << 20);
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOATIME);
  try {
    for (let length = readSync(fd, buffer); length > 0; length = readSync(fd, buffer)) {
      hash.update(buffer.subarray(0, length));
    }
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex').slice(0, 24);
}

const llistxattr = libc.func('int64 llistxattr(const void *, void *, uint64)');
const lgetxattr = libc.func('int64 lgetxattr(const void *, const void *, void *, uint64)');
const xattrBytes = Buffer.alloc(1 << 16); // XATTR_SIZE_MAX

/** Extended attributes of a path by name; symbolic links are not followed. */
function xattrsOf(path: Buffer): Map<string, Buffer> {
  const all = new Map<string, Buffer>();
  const cPath = cString(path);
  const length = Number(llistxattr(cPath, xattrBytes, xattrBytes.length));
  if (length < 0) throw new Error(`the extended attributes of ${show(path)} can't be listed`);
  for (const name of xattrBytes.toString('latin1', 0, length).split('\0').sort()) {
    if (name === '') continue;
    const key = cString(Buffer.from(name, 'latin1'));
    const size = Number(lgetxattr(cPath, key, xattrBytes, xattrBytes.length));
    // an empty file capability can be set but not read
    if (size < 0 && name !== 'security.capability') {
      throw new Error(`the extended attribute ${name} of ${show(path)} can't be read`);
    }
    all.set(name, Buffer.from(xattrBytes.subarray(0, Math.max(0, size))));
  }
  return all;
}

/** Bytes as printable text. */
export function show(bytes: Buffer): string {
  return bytes
    .toString('latin1')
    .replace(/[^\x20-\x5b\x5d-\x7e]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
