import { realpath } from 'node:fs/promises';
import { isOfStore } from '../snapshots/mounted.ts';
import { isSnapshotError, type SnapshotInfo, type Snapshotter } from '../snapshots/snapshotter.ts';
import { makeDirectories } from '../system/make-directories.ts';
import { type MountEntry, mountsAt } from '../system/mount-table.ts';
import { CliError } from './explain-error.ts';

/** `unpackd snapshots mount` and `umount`. */

/** The key of the snapshot that `mountAt` adds for a mount. `unmountAt` finds it by the folder. */
const mountKey = (folder: string) => `unpackd-mount ${folder}`;

/** Mounts a snapshot at a folder. A committed one is mounted through a new view, or a new active snapshot if `writable`. */
export async function mountAt(
  store: Snapshotter,
  info: SnapshotInfo,
  folder: string,
  writable: boolean,
): Promise<void> {
  const { mountSnapshot } = await import('../system/mount.ts');
  await makeDirectories(folder, 0o777);
  const own = mountKey(folder);
  const committed = info.kind === 'committed';
  if (writable && !committed)
    throw new CliError(
      'USAGE',
      `--writable needs a committed snapshot, and ${info.name} is ${info.kind}: leave --writable out`,
    );
  if (committed) {
    await (writable ? store.prepare(own, info.name) : store.view(own, info.name)).catch((error: unknown) => {
      if (!isSnapshotError(error, 'AlreadyExists')) throw error;
      throw new CliError(
        'SNAPSHOT_EXISTS',
        `${folder} has a mount already: run unpackd snapshots umount ${folder} first`,
      );
    });
  }
  try {
    await mountSnapshot(await store.mounts(committed ? own : info.name), folder);
  } catch (error) {
    if (committed) await store.remove(own);
    throw error;
  }
}

/**
 * Unmounts the mounts at a folder from the top down, until the first that does not belong to this store, and removes their
 * snapshots. It is no error if a restart of the machine has already unmounted the folder.
 * @returns the mount that stays at the folder
 * @throws CliError USAGE if nothing of this store is mounted there
 */
export async function unmountAt(store: Snapshotter, folder: string): Promise<MountEntry | undefined> {
  const { unmountTop } = await import('../system/mount.ts');
  const point = await realpath(folder).catch(() => folder);
  let unmounted = 0;
  let left: MountEntry | undefined;
  for (;;) {
    [left] = mountsAt(point);
    if (left === undefined || !(await isOfStore(store.root, left))) break;
    await unmountTop(point);
    unmounted += 1;
  }
  let recorded = false;
  if (left === undefined || unmounted > 0) {
    for (const key of new Set([mountKey(folder), mountKey(point)])) {
      // an active snapshot is mounted directly, so there is no snapshot with such a key
      recorded = (await removeIfThere(store, key)) || recorded;
    }
  }
  if (unmounted === 0 && !recorded) throw new CliError('USAGE', `${folder} ${instead(left, store)}`);
  return left;
}

async function removeIfThere(store: Snapshotter, key: string): Promise<boolean> {
  try {
    await store.remove(key);
    return true;
  } catch (error) {
    if (isSnapshotError(error, 'NotFound')) return false;
    throw error;
  }
}

function instead(mount: MountEntry | undefined, { root }: Snapshotter): string {
  if (mount === undefined) return `has no mount of the store ${root}`;
  return `has ${describe(mount)} mounted, not a snapshot of the store ${root}: unmount it with umount(8), or name another store with --root`;
}

/** The mount in words, such as `a tmpfs` or `an overlay`. */
export function describe({ type, source, root }: MountEntry): string {
  const name = `${/^[aeiou]/.test(type) ? 'an' : 'a'} ${type}`;
  if (type === 'overlay' || source === type || source === 'none') return name;
  return `${name} (${source}${root === '/' ? '' : `, its ${root}`})`;
}
