import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { type MountEntry, mountTable, placeInFileSystem } from '../system/mount-table.ts';
import { snapshotsDirectory } from './directories.ts';

/** The path of a snapshot's tree. */
const TREE = /\/\d+\/fs$/;
/** The same relative to ROOT/snapshots, as mountinfo shows the root of a bind mount. A removed tree is marked as deleted. */
const BOUND = /^\/\d+\/fs(\/\/deleted)?$/;

/**
 * Whether a mount shows snapshots of the store at `root`: a bind mount of a tree, or an overlay with one of the trees. Also
 * true if the mount was made through another path to the same directory. Called by commands that list or remove mounts.
 */
export async function isOfStore(root: string, mount: MountEntry): Promise<boolean> {
  const directory = snapshotsDirectory(root);
  if (mount.type !== 'overlay') {
    const store = await placeInFileSystem(directory, mountTable());
    if (store === undefined || store.device !== mount.device) return false;
    const prefix = store.path === '/' ? '' : store.path;
    return mount.root.startsWith(prefix) && BOUND.test(mount.root.slice(prefix.length));
  }
  for (const layer of layersOf(mount.options)) {
    // containerd shortens its options to paths relative to the snapshots' directory
    const path = resolve(directory, layer);
    if (TREE.test(path) && (await isSame(dirname(dirname(path)), directory))) return true;
  }
  return false;
}

/** The directories that an overlay consists of: `lowerdir=a:b`, or `lowerdir+=a` for each. */
function layersOf(options: string): string[] {
  return options.split(',').flatMap((option) => {
    const [, kind, value = ''] = /^(lowerdir\+?|upperdir)=(.*)$/.exec(option) ?? [];
    if (kind === undefined) return [];
    return kind === 'lowerdir' ? value.split(/(?<!\\):/).filter((path) => path !== '') : [value];
  });
}

async function isSame(one: string, other: string): Promise<boolean> {
  const [here, there] = await Promise.all(
    [one, other].map((path) => stat(path, { bigint: true }).catch(() => undefined)),
  );
  return here !== undefined && here.dev === there?.dev && here.ino === there.ino;
}
