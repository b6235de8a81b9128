import { execFile } from 'node:child_process';
import { constants, existsSync } from 'node:fs';
import { access, mkdir, mkdtemp, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { errnoOf, HOST_ERRNO, makeRoomIn } from '../errno.ts';
import { requireExactCopier } from '../snapshots/copy-tree.ts';
import { metadataFile } from '../snapshots/identity.ts';
import { openToRead } from '../snapshots/open.ts';
import type { Ownership, SnapshotInfo, Snapshotter } from '../snapshots/snapshotter.ts';
import { type FileSystemFacts, fileSystemFacts, fileSystemType, overlayFacts } from '../system/filesystem.ts';
import { privileges } from '../system/privileges.ts';
import { removeTree } from '../system/remove-tree.ts';
import { type Space, spaceOf } from '../system/space.ts';
import { bytesText } from '../units.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';

/** Checks of the snapshot store, for `unpackd doctor`. */

const GIB = 1024 ** 3;
/** With less free space there is a warning, because an image of usual size possibly does not fit. */
const LITTLE_SPACE = 5 * GIB;
const LITTLE_INODES = 100_000;

/**
 * Checks that the store at `root`, or the folder it would be created in, can hold snapshots of this type. In the folder of a
 * new store, it tries what the file system can do, in a temporary directory. An existing store is only read.
 */
export async function checkStore(
  root: string,
  type: Snapshotter['type'],
  ownership: Ownership = 'keep',
): Promise<Check[]> {
  if (existsSync(metadataFile(root))) return checkExisting(root, type);
  const folder = await nearestFolder(root);
  const where = folder === root ? root : `${root} (does not exist yet; checked ${folder})`;
  let facts: FileSystemFacts;
  try {
    facts = await fileSystemFacts(folder);
  } catch (error) {
    return [fail('Store', `${where}: ${reason(error)}`, adviceFor(error, folder)), ...spaceWithoutTrying(folder)];
  }
  const checks = [
    place(where, facts.type),
    space({ bytes: facts.freeBytes, inodes: facts.freeInodes }, facts.totalBytes),
  ];
  if (type === 'native') return [...checks, await native()];
  if (facts.type === 'overlay' && !(await overlayFacts(folder)).mountable) return [...checks, stacked()];
  return [...checks, attributes(facts, ownership), types(facts), whiteouts(facts), await overlay(folder)];
}

/** Checks a store that exists, without writing anything. What its file system can do was tried when it was made. */
async function checkExisting(root: string, type: Snapshotter['type']): Promise<Check[]> {
  const spaces = spaceWithoutTrying(root);
  try {
    await access(root, constants.W_OK);
  } catch (error) {
    return [fail('Store', `${root}: ${reason(error)}`, adviceFor(error, root)), ...spaces];
  }
  const checks = [place(root, await fileSystemType(root)), ...spaces];
  try {
    const store = await openToRead({ root, type });
    try {
      return [...checks, snapshots(await store.walk())];
    } finally {
      await store.close();
    }
  } catch (error) {
    return [...checks, fail('Snapshots', reason(error), 'see “At three in the morning” in docs/operations.md')];
  }
}

function snapshots(infos: readonly SnapshotInfo[]): Check {
  const broken = infos.filter((info) => info.broken !== undefined).length;
  const suspect = infos.filter((info) => info.broken === undefined && info.suspect === true).length;
  const counts = [
    ...(broken === 0 ? [] : [`${broken} of them broken`]),
    ...(suspect === 0 ? [] : [`${suspect} suspect, because they were not synced`]),
  ];
  const finding = [`${infos.length} snapshots`, ...counts].join(', ');
  if (counts.length === 0) return ok('Snapshots', finding);
  return warn('Snapshots', finding, 'nothing, or unpackd snapshots rm: the next job of such an image unpacks it again');
}

function place(where: string, type: string): Check {
  const finding = `${where}, on ${type}`;
  if (type !== 'tmpfs' && type !== 'ramfs') return ok('Store', finding);
  return warn(
    'Store',
    `${finding}: the store is in memory, and is lost when the machine restarts`,
    'use a disk (set UNPACK_ROOT, or mount a disk there), unless this is intended',
  );
}

/** Advice for an error that the kernel returned when the check created a directory there, or tested write access. */
function adviceFor(error: unknown, folder: string): string {
  const code = errnoOf(error) ?? '';
  const host = HOST_ERRNO[code];
  if (code !== 'EACCES' && code !== 'EPERM') return host?.advice ?? 'use another folder (UNPACK_ROOT)';
  const { user, inUserNamespace } = privileges();
  if (user !== 'root') return `run as root or as the owner of ${folder}, or use another folder (UNPACK_ROOT)`;
  const why = inUserNamespace
    ? 'root of a user namespace can write only files whose owners belong to the namespace'
    : 'an immutable directory (lsattr), a security module or the server of a network file system refuses even root';
  return `use another folder (UNPACK_ROOT), because ${why}`;
}

/** The upper directory of an overlay cannot be on another overlay. */
function stacked(): Check {
  return fail(
    'Overlay',
    'the store is on an overlay, such as the root file system of a container, and overlays cannot be stacked',
    'mount a volume or a directory of the host at the store (docker run -v, a Kubernetes volume), or use --snapshotter native (UNPACK_SNAPSHOTTER), which makes full copies',
  );
}

async function native(): Promise<Check> {
  try {
    await requireExactCopier();
    return ok('Snapshotter', 'native: full copies, made by cp of GNU coreutils');
  } catch (error) {
    return fail('Snapshotter', reason(error), 'install GNU coreutils, or use --snapshotter overlay');
  }
}

/** Whether a file system has space. @param makeRoom how to get more, as the advice */
export function space({ bytes, inodes }: Space, totalBytes?: number, makeRoom = makeRoomIn('unpackd')): Check {
  const total = totalBytes === undefined ? '' : ` of ${bytesText(totalBytes)}`;
  const nodes = inodes === undefined ? '' : `, ${inodes.toLocaleString('en-US')} inodes`;
  const finding = `${bytesText(bytes)}${total} free${nodes}`;
  if (bytes === 0 || inodes === 0) {
    return fail('Space', `${finding}: ${bytes === 0 ? 'the file system is full' : 'no inode is left'}`, makeRoom);
  }
  const little = bytes < LITTLE_SPACE || (inodes !== undefined && inodes < LITTLE_INODES);
  return little ? warn('Space', finding, makeRoom) : ok('Space', finding);
}

function spaceWithoutTrying(folder: string): Check[] {
  try {
    return [space(spaceOf(folder))];
  } catch {
    return []; // the check of the store reports the error
  }
}

function attributes({ type, trustedXattrs, userXattrs }: FileSystemFacts, ownership: Ownership): Check {
  const name = 'Attributes';
  if (trustedXattrs) return ok(name, 'trusted.* attributes can be set');
  if (userXattrs && ownership === 'squash') return ok(name, 'user.* attributes can be set, for mounts with userxattr');
  if (userXattrs) {
    return warn(
      name,
      'only user.* attributes can be set, not trusted.*, so the snapshots need mounts with userxattr',
      `${asAdministrator()} if containerd is to use these snapshots`,
    );
  }
  return fail(
    name,
    `neither trusted.* nor user.* attributes can be set on ${type}`,
    `put the store on ext4, XFS or Btrfs, or ${asAdministrator()}`,
  );
}

function types({ type, directoryTypes }: FileSystemFacts): Check {
  if (directoryTypes) return ok('Directory types', 'directories report the types of their entries (d_type)');
  return fail(
    'Directory types',
    `directories of ${type} do not report the types of their entries (d_type)`,
    'use another file system; XFS must be made with mkfs.xfs -n ftype=1',
  );
}

function whiteouts({ type, whiteouts }: FileSystemFacts): Check {
  const name = 'Whiteouts';
  if (whiteouts) return ok(name, 'the device 0:0, which is the whiteout of an overlay, can be created');
  return fail(
    name,
    `this user cannot create the device 0:0, which is the whiteout of an overlay, on ${type}`,
    isRoot()
      ? 'add CAP_MKNOD to the container, allow mknod in the sandbox or security module, or use --snapshotter native'
      : 'use Linux 5.8 or newer, on which any user can create it, or allow mknod in the sandbox, run as root, or use --snapshotter native',
  );
}

const isRoot = (): boolean => process.geteuid?.() === 0;

/** How to get the permission to set trusted.* attributes. Root lacks it only in a container or a user namespace. */
function asAdministrator(): string {
  return isRoot()
    ? 'give this process CAP_SYS_ADMIN in the machine’s own user namespace (in a container: --cap-add SYS_ADMIN)'
    : 'run as root of the machine (CAP_SYS_ADMIN)';
}

async function overlay(folder: string): Promise<Check> {
  const name = 'Overlay';
  const { mountable, reason, userXattrs } = await overlayFacts(folder);
  if (mountable) return ok(name, `can be mounted${userXattrs ? ', with userxattr' : ''}`);
  if (!isRoot()) return overlayInUserNamespace(folder);
  return fail(
    name,
    reason ?? 'cannot be mounted',
    'use another file system, or --snapshotter native (UNPACK_SNAPSHOTTER), which makes full copies',
  );
}

/**
 * A user who is not root can unpack, because unpacking needs no mount. To mount, this user needs its own user namespace, where
 * it is root.
 */
async function overlayInUserNamespace(folder: string): Promise<Check> {
  const name = 'Overlay';
  const enter = ['--user', '--map-root-user', '--mount'];
  const probe = await mkdtemp(join(folder, '.probe-'));
  try {
    const [lower1, lower2, upper, work, merged] = ['lower1', 'lower2', 'upper', 'work', 'merged'].map((part) =>
      join(probe, part),
    );
    for (const path of [lower1, lower2, upper, work, merged]) await mkdir(path ?? '');
    const options = `userxattr,workdir=${work},upperdir=${upper},lowerdir=${lower1}:${lower2}`;
    const mount = ['mount', '-t', 'overlay', 'overlay', '-o', options, merged ?? ''];
    await promisify(execFile)('unshare', [...enter, ...mount], { timeout: 10_000 });
    return ok(name, `can be mounted in a user namespace (unshare ${enter.join(' ')}); unpacking needs no mount`);
  } catch (error) {
    return warn(
      name,
      `this user can unpack but not mount: ${commandError(error)}`,
      'allow user namespaces (user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), or let root mount',
    );
  } finally {
    await removeTree(probe);
  }
}

/** The first line that a command printed on stderr, or the reason why it could not be run. */
function commandError(error: unknown): string {
  const stderr = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : '';
  return stderr === '' ? reason(error) : (stderr.split('\n')[0] ?? stderr);
}

/** The path, or the nearest one above it that exists. */
export async function nearestFolder(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined || dirname(path) === path ? path : nearestFolder(dirname(path));
}
