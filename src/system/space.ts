import { statfsSync } from 'node:fs';

/** What is free on a file system, for a program without privileges. */
export interface Space {
  readonly bytes: number;
  /** `undefined` where the file system has no fixed number of them (Btrfs). */
  readonly inodes: number | undefined;
}

/** @throws system errors */
export function spaceOf(path: string): Space {
  const { bavail, bsize, files, ffree } = statfsSync(path);
  return { bytes: bavail * bsize, inodes: files === 0 ? undefined : ffree };
}

/** More than one file's attributes can take on any file system. */
const SOME_BYTES = 1 << 20;
/** tmpfs counts attributes as inodes of a kilobyte each. */
const SOME_INODES = 1024;

/** Whether a call that asked for little, and was refused for want of space, was refused for something else. */
export function hasRoom(path: string): boolean {
  try {
    const { bytes, inodes } = spaceOf(path);
    return bytes >= SOME_BYTES && (inodes === undefined || inodes >= SOME_INODES);
  } catch {
    return false;
  }
}
