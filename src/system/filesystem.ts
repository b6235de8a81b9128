import { constants } from 'node:fs';
import { access, mkdir, mkdtemp, open, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import koffi from 'koffi';
import { cString, mknodAt, S_IFCHR, setXattrFd } from './files.ts';
import { libc, systemError } from './libc.ts';
import { mountSnapshot, unmountSnapshot } from './mount.ts';
import { mountOf } from './mount-table.ts';
import { removeTree } from './remove-tree.ts';

/** What a directory's file system is and can do. */
export interface FileSystemFacts {
  /** As /proc/self/mountinfo names it: `ext4`, `xfs`, `btrfs`, `overlay`, `tmpfs`… */
  readonly type: string;
  /** Bytes in all, and those that a program without privileges may still fill. */
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** `undefined` where the file system has no fixed number of them (Btrfs). */
  readonly totalInodes: number | undefined;
  readonly freeInodes: number | undefined;
  /** Whether listing a directory tells types (`d_type`); overlayfs needs it. */
  readonly directoryTypes: boolean;
  /** Whether this process can set extended attributes of these families there. */
  readonly trustedXattrs: boolean;
  readonly userXattrs: boolean;
  /** Whether this process can make overlayfs's whiteouts there: ordinary users can since Linux 5.8. */
  readonly whiteouts: boolean;
}

export interface OverlayFacts {
  readonly mountable: boolean;
  /** Why it can't be mounted, as a sentence. */
  readonly reason?: string;
  /** Whether the mount needs the option `userxattr`, as it does in a user namespace. */
  readonly userXattrs: boolean;
}

/**
 * Looks at a directory by trying things out in a temporary one inside it.
 * @throws system errors: the directory is not there, or can't be written
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
        directoryTypes: await tellsTypes(probe),
        trustedXattrs: canSet(handle.fd, 'trusted.unpackd'),
        userXattrs: canSet(handle.fd, 'user.unpackd'),
        whiteouts: canDo(() => mknodAt(handle.fd, cString('whiteout'), S_IFCHR, 0)),
      };
    } finally {
      await handle.close();
    }
  });
}

/**
 * Whether overlayfs can be mounted on layers in this directory, by mounting two.
 * @throws system errors: the directory is not there, or can't be written
 */
export async function overlayFacts(directory: string): Promise<OverlayFacts> {
  const { trustedXattrs, userXattrs } = await fileSystemFacts(directory);
  // trusted.* can be set by who is root of the whole machine; overlayfs asks the same question
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

/** Whether the kernel's overlayfs has the option `index`. A module that isn't loaded doesn't say, and counts as no. */
export async function overlayKnowsIndex(): Promise<boolean> {
  return access('/sys/module/overlay/parameters/index').then(
    () => true,
    () => false,
  );
}

async function fileSystemType(path: string): Promise<string> {
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

function canSet(descriptor: number, name: string): boolean {
  return canDo(() => setXattrFd(descriptor, cString(name), Buffer.from('1')));
}

function canDo(call: () => void): boolean {
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

/** readdir(3) itself: Node's quietly asks lstat where the type is missing. */
async function tellsTypes(directory: string): Promise<boolean> {
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
