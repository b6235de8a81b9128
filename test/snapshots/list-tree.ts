import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { AT_FDCWD, close, cString, O, openAt, xattrsOfPathFd } from '../../src/system/files.ts';

/**
 * Lists a directory and all paths below it, to compare two trees: type, mode, owner, device, size, time to the nanosecond,
 * attributes, content or link target, and for a hard link its first name.
 */
export function listTree(root: string): string[] {
  const lines: string[] = [];
  const firstNames = new Map<bigint, string>();
  const visit = (path: Buffer): void => {
    const name = path.subarray(root.length).toString('latin1') || '/';
    const status = lstatSync(path, { bigint: true });
    const link = status.isSymbolicLink() ? readlinkSync(path) : '';
    const content = status.isFile() ? createHash('sha256').update(readFileSync(path)).digest('hex') : '';
    const fd = openAt(AT_FDCWD, cString(path), O.PATH | O.NOFOLLOW);
    const attributes = [...xattrsOfPathFd(fd)].map(([key, value]) => `${key}=${value.toString('hex')}`).sort();
    close(fd);
    const first = status.isDirectory() ? '' : (firstNames.get(status.ino) ?? name);
    firstNames.set(status.ino, first);
    const size = status.isFile() ? status.size : '';
    const { mode, uid, gid, rdev, mtimeNs } = status;
    lines.push([name, mode.toString(8), uid, gid, rdev, size, mtimeNs, link, content, attributes, first].join('\t'));
    if (!status.isDirectory()) return;
    const names = readdirSync(path, { encoding: 'buffer' }).sort(Buffer.compare);
    for (const child of names) visit(Buffer.concat([path, Buffer.from('/'), child]));
  };
  visit(Buffer.from(root));
  return lines;
}
