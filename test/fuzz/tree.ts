import { type BigIntStats, lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { AT_FDCWD, close, cString, O, openAt, xattrsOfPathFd } from '../../src/system/files.ts';

/** Maximum size of files that are compared by content, because a sparse file may have a gigabyte. */
const LONG = 1 << 16;
const SLASH = Buffer.from('/');

/**
 * All files below a directory as text, one line for each path. Times after `since` come from writing and are not compared.
 */
export function describeTree(root: string, since: bigint): string {
  const lines: string[] = [];
  const names = new Map<bigint, number>();
  const visit = (path: Buffer): void => {
    for (const name of readdirSync(path, { encoding: 'buffer' }).sort(Buffer.compare)) {
      const child = Buffer.concat([path, SLASH, name]);
      const status = lstatSync(child, { bigint: true });
      // the first path of a group of hard links stands for it
      if (!names.has(status.ino)) names.set(status.ino, lines.length);
      lines.push(
        `${child.toString('latin1', root.length)} =${names.get(status.ino)} ${describe(child, status, since)}`,
      );
      if (status.isDirectory()) visit(child);
    }
  };
  visit(Buffer.from(root));
  return lines.join('\n');
}

function describe(path: Buffer, status: BigIntStats, since: bigint): string {
  const { mode, uid, gid, rdev, size, nlink, mtimeNs } = status;
  const facts: unknown[] = [mode.toString(8), uid, gid, rdev, mtimeNs >= since ? 'now' : mtimeNs];
  if (!status.isDirectory()) facts.push(size, nlink);
  if (status.isFile() && size <= LONG) facts.push(readFileSync(path, 'latin1'));
  if (status.isSymbolicLink()) return [...facts, readlinkSync(path, 'buffer').toString('latin1')].join(' ');
  const fd = openAt(AT_FDCWD, cString(path), O.PATH | O.NOFOLLOW);
  try {
    for (const [key, value] of xattrsOfPathFd(fd)) facts.push(`${key}=${value.toString('latin1')}`);
  } finally {
    close(fd);
  }
  return facts.join(' ');
}
