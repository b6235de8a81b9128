import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs';
import type { TreeContents } from '../../src/erofs/tree-contents.ts';
import {
  AT_FDCWD,
  close,
  cString,
  O,
  openAt,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  statFd,
  xattrsOfPathFd,
} from '../../src/system/files.ts';

/** Larger files are compared where they have data only. */
const WHOLE = 1 << 20;

/**
 * Compares a tree in memory with a directory of the kernel, line by line. The content of files in memory is in `tar`. A time
 * between `since` and now, in seconds, is what a change of a file gives: in memory it is 1970.
 * @returns lines that differ, empty if there are none
 */
export function differences(root: string, memory: TreeContents, tar: Buffer, since: number): string[] {
  const [inKernel, inMemory] = [kernelLines(root, memory, since), memoryLines(memory, tar)];
  return [...new Set([...inKernel.keys(), ...inMemory.keys()])].flatMap((path) => {
    const [kernel, own] = [inKernel.get(path), inMemory.get(path)];
    return kernel === own ? [] : [`${JSON.stringify(path)}\n  kernel ${kernel}\n  memory ${own}`];
  });
}

interface Facts {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly links: number;
  readonly size: number;
  readonly device: string;
  readonly time: string;
  readonly target: string;
  readonly xattrs: ReadonlyMap<string, Buffer>;
  readonly content: string;
}

/** Lines by path, and which inode each path has. */
class Lines {
  private readonly lines = new Map<string, string>();
  private readonly paths = new Map<number | bigint, string[]>();

  add(path: string, inode: number | bigint, facts: Facts): void {
    this.lines.set(path, line(facts));
    this.paths.set(inode, [...(this.paths.get(inode) ?? []), path]);
  }

  /** Each line with all paths of its inode. */
  whole(): Map<string, string> {
    for (const paths of this.paths.values()) {
      if (paths.length === 1) continue;
      const all = paths.sort().join();
      for (const path of paths) this.lines.set(path, `${this.lines.get(path)} is ${all}`);
    }
    return this.lines;
  }
}

function line({ mode, uid, gid, links, size, device, time, target, xattrs, content }: Facts): string {
  const attributes = [...xattrs].sort(([a], [b]) => (a < b ? -1 : 1)).map(([k, v]) => `${k}=${v.toString('hex')}`);
  return `${mode.toString(8)} ${uid}:${gid} ${links} ${size} ${device} ${time} ${target} ${content} ${attributes.join(' ')}`;
}

function memoryLines(memory: TreeContents, tar: Buffer): Map<string, string> {
  const lines = new Lines();
  const paths = new Map([[memory.root, '']]);
  const add = (path: string, inode: number): void => {
    const type = memory.typeOf(inode);
    const device = memory.deviceOf(inode);
    const { seconds, nanoseconds } = memory.mtimeOf(inode);
    lines.add(path, inode, {
      mode: memory.modeOf(inode),
      uid: memory.uidOf(inode),
      gid: memory.gidOf(inode),
      links: memory.linksOf(inode),
      size: memory.sizeOf(inode),
      device: `${(device >>> 8) & 0xfff}:${(device & 0xff) | ((device >>> 12) & 0xfff00)}`,
      time: `${seconds}.${nanoseconds}`,
      target: type === S_IFLNK ? memory.targetOf(inode).toString('latin1') : '',
      xattrs: memory.xattrsOf(inode),
      content: type === S_IFREG ? contentInTar(memory, inode, tar) : '',
    });
  };
  add('', memory.root);
  for (const { directory, entries } of memory.directories()) {
    for (const entry of entries) {
      const path = `${paths.get(directory)}/${memory.nameOf(entry).toString('latin1')}`;
      const inode = memory.inodeOf(entry);
      paths.set(inode, path);
      if (memory.typeOf(inode) === S_IFDIR && memory.parentOf(inode) !== directory) throw new Error(`${path}: parent`);
      add(path, inode);
    }
  }
  return lines.whole();
}

function contentInTar(memory: TreeContents, inode: number, tar: Buffer): string {
  const extents = memory.extentsOf(inode);
  const size = memory.sizeOf(inode);
  if (size > WHOLE) return extents.map(({ offset, length }) => tar.toString('hex', offset, offset + length)).join();
  const whole = Buffer.alloc(size);
  for (const { position, offset, length } of extents) tar.copy(whole, position, offset, offset + length);
  return whole.toString('hex');
}

/** @param memory in which the parts of large files with data are looked up, by path */
function kernelLines(root: string, memory: TreeContents, since: number): Map<string, string> {
  const until = Date.now() / 1000 + 2;
  const lines = new Lines();
  const visit = (path: string): void => {
    const whole = Buffer.from(root + path, 'latin1');
    const fd = openAt(AT_FDCWD, cString(whole), O.PATH | O.NOFOLLOW);
    try {
      const status = statFd(fd);
      const type = status.mode & S_IFMT;
      const isDirectory = type === S_IFDIR;
      const { seconds, nanoseconds } = status.mtime;
      lines.add(path, status.inode, {
        ...status,
        size: isDirectory ? 0 : status.size,
        device: `${status.major}:${status.minor}`,
        time: seconds >= since - 2 && seconds <= until ? '0.0' : `${seconds}.${nanoseconds}`,
        target: type === S_IFLNK ? readlinkSync(whole, 'buffer').toString('latin1') : '',
        xattrs: xattrsOfPathFd(fd),
        content: type === S_IFREG ? contentOnDisk(whole, status.size, memory, path) : '',
      });
      if (!isDirectory) return;
    } finally {
      close(fd);
    }
    for (const name of readdirSync(whole, { encoding: 'buffer' }).sort(Buffer.compare)) {
      visit(`${path}/${name.toString('latin1')}`);
    }
  };
  visit('');
  return lines.whole();
}

function contentOnDisk(path: Buffer, size: number, memory: TreeContents, name: string): string {
  if (size <= WHOLE) return readFileSync(path).toString('hex');
  const file = openSync(path, 'r');
  try {
    const parts = memory.extentsOf(inodeAt(memory, name)).map(({ position, length }) => {
      const part = Buffer.alloc(length);
      readSync(file, part, 0, length, position);
      return part.toString('hex');
    });
    return parts.join();
  } finally {
    closeSync(file);
  }
}

function inodeAt(memory: TreeContents, path: string): number {
  let at = memory.root;
  for (const name of path.split('/').slice(1)) {
    const entry = memory.entriesOf(at).find((each) => memory.nameOf(each).toString('latin1') === name);
    if (entry === undefined) throw new Error(`no ${path} in memory`);
    at = memory.inodeOf(entry);
  }
  return at;
}
