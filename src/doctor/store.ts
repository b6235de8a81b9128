import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { requireExactCopier } from '../snapshots/copy-tree.ts';
import type { Ownership, Snapshotter } from '../snapshots/snapshotter.ts';
import { type FileSystemFacts, fileSystemFacts, overlayFacts } from '../system/filesystem.ts';
import { removeTree } from '../system/remove-tree.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';

const GIB = 1024 ** 3;
/** Less than one usual image, unpacked. */
const LITTLE_SPACE = 5 * GIB;
const LITTLE_INODES = 100_000;

/** Whether the store at `root`, or the folder that it would be made in, can hold snapshots of that type. */
export async function checkStore(
  root: string,
  type: Snapshotter['type'],
  ownership: Ownership = 'keep',
): Promise<Check[]> {
  const folder = await nearestFolder(root);
  const where = folder === root ? root : `${root} (not there yet; looked at ${folder})`;
  let facts: FileSystemFacts;
  try {
    facts = await fileSystemFacts(folder);
  } catch (error) {
    return [fail('Store', `${where}: ${reason(error)}`, 'run as root, or put the store elsewhere with UNPACK_ROOT')];
  }
  const checks = [ok('Store', `${where}, on ${facts.type}`), space(facts)];
  if (type === 'native') return [...checks, await native()];
  return [...checks, attributes(facts, ownership), types(facts), whiteouts(facts), await overlay(folder)];
}

async function native(): Promise<Check> {
  try {
    await requireExactCopier();
    return ok('Snapshotter', 'native: full copies, made by cp of GNU coreutils');
  } catch (error) {
    return fail('Snapshotter', reason(error), 'install GNU coreutils, or use --snapshotter overlay');
  }
}

function space({ freeBytes, totalBytes, freeInodes }: FileSystemFacts): Check {
  const inodes = freeInodes === undefined ? '' : `, ${freeInodes.toLocaleString('en-US')} inodes`;
  const gib = (bytes: number) => `${(bytes / GIB).toFixed(1)} GiB`;
  const finding = `${gib(freeBytes)} of ${gib(totalBytes)} free${inodes}`;
  const little = freeBytes < LITTLE_SPACE || (freeInodes !== undefined && freeInodes < LITTLE_INODES);
  return little
    ? warn('Space', finding, 'free some (unpackd snapshots usage, rm, cleanup), or use a larger file system')
    : ok('Space', finding);
}

function attributes({ type, trustedXattrs, userXattrs }: FileSystemFacts, ownership: Ownership): Check {
  const name = 'Attributes';
  if (trustedXattrs) return ok(name, 'trusted.* can be set');
  if (userXattrs && ownership === 'squash') return ok(name, 'user.* can be set, for mounts with userxattr');
  if (userXattrs) {
    return warn(
      name,
      'trusted.* cannot be set, user.* can: layers are written for mounts with userxattr',
      'run as root of the machine (CAP_SYS_ADMIN) if containerd is to use these snapshots',
    );
  }
  return fail(
    name,
    `${type} keeps neither trusted.* nor user.* attributes here`,
    'run as root (CAP_SYS_ADMIN), on ext4, XFS or Btrfs',
  );
}

function types({ type, directoryTypes }: FileSystemFacts): Check {
  if (directoryTypes) return ok('Directory types', 'folders tell what their entries are (d_type)');
  return fail(
    'Directory types',
    `${type} does not tell them (d_type)`,
    'on XFS: make it again with mkfs.xfs -n ftype=1',
  );
}

function whiteouts({ type, whiteouts }: FileSystemFacts): Check {
  const name = 'Whiteouts';
  if (whiteouts) return ok(name, 'the device 0:0, which stands for what a layer deletes, can be made');
  return fail(
    name,
    `this user can't make the device 0:0 on ${type}`,
    'Linux 5.8 lets any user make it; before that, or where a sandbox forbids mknod, run as root or use --snapshotter native',
  );
}

async function overlay(folder: string): Promise<Check> {
  const name = 'Overlay';
  const { mountable, reason, userXattrs } = await overlayFacts(folder);
  if (mountable) return ok(name, `mounted one${userXattrs ? ', with userxattr' : ''}`);
  if (process.geteuid?.() !== 0) return overlayInUserNamespace(folder);
  return fail(
    name,
    reason ?? 'cannot be mounted',
    'see above; on a file system that cannot, use --snapshotter native (UNPACK_SNAPSHOTTER), which copies',
  );
}

/** An ordinary user may unpack without mounting, and mount where it is root: in a user namespace of its own. */
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
      `this user can unpack but not mount: ${told(error)}`,
      'allow user namespaces (user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), or let root mount',
    );
  } finally {
    await removeTree(probe);
  }
}

/** What a command said, or why it could not be run. */
function told(error: unknown): string {
  const stderr = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : '';
  return stderr === '' ? reason(error) : (stderr.split('\n')[0] ?? stderr);
}

async function nearestFolder(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined || dirname(path) === path ? path : nearestFolder(dirname(path));
}
