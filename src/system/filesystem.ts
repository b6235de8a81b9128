import { constants } from 'node:fs';
import { access, mkdir, mkdtemp, open, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import koffi from 'koffi';
import { cString, mknodAt, S_IFCHR, setXattrFd } from './files.ts';
import { libc, systemError } from './libc.ts';
import { mountSnapshot, unmountSnapshot } from './mount.ts';
import { mountOf } from './mount-table.ts';
import { removeTree } from './remove-tree.ts';

/**
 * The type, the free space and the features of the file system of a directory. For opening a store and for `unpackd
 * doctor`.
 */
export interface FileSystemFacts {
  /** The type in /proc/self/mountinfo: `ext4`, `xfs`, `btrfs`, `overlay`, `tmpfs`… */
  readonly type: string;
  readonly totalBytes: number;
  /** Free space in bytes for a user without privileges. */
  readonly freeBytes: number;
  /** `undefined` if the file system has no fixed number of inodes (Btrfs). */
  readonly totalInodes: number | undefined;
  readonly freeInodes: number | undefined;
  /** Whether readdir(3) returns the types of names (`d_type`). overlayfs needs them. */
  readonly directoryTypes: boolean;
  /** Whether this process can set extended attributes in these namespaces. */
  readonly trustedXattrs: boolean;
  readonly userXattrs: boolean;
  /** Whether this process can make overlayfs's whiteouts. Since Linux 5.8, users other than root can make them too. */
  readonly whiteouts: boolean;
}

export interface OverlayFacts {
  readonly mountable: boolean;
  /** The error of the mount. Absent if it worked. */
  readonly reason?: string;
  /** Whether the mount needs the option `userxattr`. In a user namespace it does. */
  readonly userXattrs: boolean;
}

/**
 * Tests a directory's file system in a temporary directory inside it.
 * @throws system errors if the directory does not exist or cannot be written
 */
export async function fileSystemFacts(directory: string): Promise<FileSystemFacts> {
  const [type, space] = await Promise.all([fileSystemType(directory), statfs(directory)]);
  return inProbe(directory, async (probe) => {
    const handle = await open(probe, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      return {
        type,
        totalBytes: space.blocks * space.bsize,
        freeBytes: space.bavail * space.bsize,
        totalInodes: space.files === 0 ? undefined : space.files,
        freeInodes: space.files === 0 ? undefined : space.ffree,
        directoryTypes: await hasTypes(probe),
        trustedXattrs: canSetXattr(handle.fd, 'trusted.unpackd'),
        userXattrs: canSetXattr(handle.fd, 'user.unpackd'),
        whiteouts: succeeds(() => mknodAt(handle.fd, cString('whiteout'), S_IFCHR, 0)),
      };
    } finally {
      await handle.close();
    }
  });
}

/**
 * Tests whether overlayfs can merge layers in this directory, by mounting an overlay of two.
 * @throws system errors if the directory does not exist or cannot be written
 */
export async function overlayFacts(directory: string): Promise<OverlayFacts> {
  const { trustedXattrs, userXattrs } = await fileSystemFacts(directory);
  // only root of the whole machine can set trusted.*; overlayfs checks the same
  const needed = !trustedXattrs && userXattrs;
  return inProbe(directory, async (probe) => {
    const path = (name: string) => join(probe, name);
    for (const name of ['lower1', 'lower2', 'upper', 'work', 'merged']) await mkdir(path(name));
    const options = [
      `workdir=${path('work')}`,
      `upperdir=${path('upper')}`,
      `lowerdir=${path('lower1')}:${path('lower2')}`,
      ...(needed ? ['userxattr'] : []),
    ];
    try {
      await mountSnapshot([{ type: 'overlay', source: 'overlay', options }], path('merged'));
    } catch (error) {
      return { mountable: false, reason: error instanceof Error ? error.message : String(error), userXattrs: needed };
    }
    await unmountSnapshot(path('merged'));
    return { mountable: true, userXattrs: needed };
  });
}

/** Whether the kernel's overlayfs has the option `index`. False if the module is not loaded. */
export async function overlayKnowsIndex(): Promise<boolean> {
  return access('/sys/module/overlay/parameters/index').then(
    () => true,
    () => false,
  );
}

export async function fileSystemType(path: string): Promise<string> {
  return (await mountOf(path))?.type ?? 'unknown';
}

async function inProbe<T>(directory: string, body: (probe: string) => Promise<T>): Promise<T> {
  const probe = await mkdtemp(join(directory, '.probe-'));
  try {
    return await body(probe);
  } finally {
    await removeTree(probe);
  }
}

function canSetXattr(descriptor: number, name: string): boolean {
  return succeeds(() => setXattrFd(descriptor, cString(name), Buffer.from('1')));
}

function succeeds(call: () => void): boolean {
  try {
    call();
    return true;
  } catch {
    return false;
  }
}

const opendir = libc.func('void *opendir(const char *)');
const readdir = libc.func('void *readdir(void *)');
const closedir = libc.func('int closedir(void *)');
/** struct dirent of 64-bit Linux, glibc and musl: inode 8, offset 8, length 2, type 1, name. */
const D_TYPE = 18;
const D_NAME = 19;
const DT_REG = 8;

/** Calls readdir(3) directly, because Node's readdir calls lstat if a type is missing. */
async function hasTypes(directory: string): Promise<boolean> {
  await writeFile(join(directory, 'f'), '');
  const stream: unknown = opendir(directory);
  if (stream === null) throw systemError('opendir', directory);
  try {
    for (let entry: unknown = readdir(stream); entry !== null; entry = readdir(stream)) {
      if (koffi.decode(entry, D_NAME, 'uint8') !== 'f'.charCodeAt(0)) continue;
      return koffi.decode(entry, D_TYPE, 'uint8') === DT_REG;
    }
    return false;
  } finally {
    closedir(stream);
  }
}
