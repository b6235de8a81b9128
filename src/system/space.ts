import { statfsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';

/** Free space of a file system, for a user without privileges. It is a separate file, because apply threads load it. */
export interface Space {
  readonly bytes: number;
  /** `undefined` if the file system has no fixed number of inodes (Btrfs). */
  readonly inodes: number | undefined;
}

/** @throws system errors */
export function spaceOf(path: string): Space {
  const { bavail, bsize, files, ffree } = statfsSync(path);
  return { bytes: bavail * bsize, inodes: files === 0 ? undefined : ffree };
}

/** Free and total space of a file system. The totals leave out what is reserved for root, as df(1) does for its per cent. */
export interface Disk extends Space {
  readonly totalBytes: number;
  readonly totalInodes: number | undefined;
}

/** Asynchronous, because a disk that hangs must not block the event loop. @throws system errors */
export async function diskOf(path: string): Promise<Disk> {
  const { blocks, bfree, bavail, bsize, files, ffree } = await statfs(path);
  return {
    bytes: bavail * bsize,
    inodes: files === 0 ? undefined : ffree,
    totalBytes: (blocks - bfree + bavail) * bsize,
    totalInodes: files === 0 ? undefined : files,
  };
}

/** More space than the extended attributes of one file need on any file system. */
const SOME_BYTES = 1 << 20;
/** tmpfs counts an inode for each kilobyte of extended attributes. */
const SOME_INODES = 1024;

/**
 * Whether the file system has space for the extended attributes of a file. If it has, ENOSPC of a call that sets one does
 * not mean a full disk.
 */
export function hasRoom(path: string): boolean {
  try {
    const { bytes, inodes } = spaceOf(path);
    return bytes >= SOME_BYTES && (inodes === undefined || inodes >= SOME_INODES);
  } catch {
    return false;
  }
}
