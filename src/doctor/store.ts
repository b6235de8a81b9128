import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { requireExactCopier } from '../snapshots/copy-tree.ts';
import type { Snapshotter } from '../snapshots/snapshotter.ts';
import { type FileSystemFacts, fileSystemFacts, overlayFacts } from '../system/filesystem.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';

const GIB = 1024 ** 3;
/** Less than one usual image, unpacked. */
const LITTLE_SPACE = 5 * GIB;
const LITTLE_INODES = 100_000;

/** Whether the store at `root`, or the folder that it would be made in, can hold snapshots of that type. */
export async function checkStore(root: string, type: Snapshotter['type']): Promise<Check[]> {
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
  return [...checks, attributes(facts), types(facts), await overlay(folder)];
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

function attributes({ type, trustedXattrs, userXattrs }: FileSystemFacts): Check {
  const name = 'Attributes';
  if (trustedXattrs) return ok(name, 'trusted.* can be set');
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

async function overlay(folder: string): Promise<Check> {
  const name = 'Overlay';
  const { mountable, reason, userXattrs } = await overlayFacts(folder);
  if (mountable) return ok(name, `mounted one${userXattrs ? ', with userxattr' : ''}`);
  return fail(
    name,
    reason ?? 'cannot be mounted',
    'see above; on a file system that cannot, use --snapshotter native (UNPACK_SNAPSHOTTER), which copies',
  );
}

async function nearestFolder(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined || dirname(path) === path ? path : nearestFolder(dirname(path));
}
