import { mkdir, realpath } from 'node:fs/promises';
import { isOfStore } from '../snapshots/mounted.ts';
import { isSnapshotError, type SnapshotInfo, type Snapshotter } from '../snapshots/snapshotter.ts';
import { type MountEntry, mountsAt } from '../system/mount-table.ts';
import { CliError } from './failure.ts';

/** The key of the snapshot that stands for a mount: found again by the folder alone. */
const mountKey = (folder: string) => `unpackd-mount ${folder}`;

/** Mounts a snapshot at a folder; a committed one by way of a view, or of a writable layer. */
export async function mountAt(
  store: Snapshotter,
  info: SnapshotInfo,
  folder: string,
  writable: boolean,
): Promise<void> {
  const { mountSnapshot } = await import('../system/mount.ts');
  await mkdir(folder, { recursive: true });
  const own = mountKey(folder);
  const committed = info.kind === 'committed';
  if (writable && !committed)
    throw new CliError('USAGE', `--writable is for a committed snapshot; ${info.name} is ${info.kind}`);
  if (committed) {
    await (writable ? store.prepare(own, info.name) : store.view(own, info.name)).catch((error: unknown) => {
      if (!isSnapshotError(error, 'AlreadyExists')) throw error;
      throw new CliError(
        'SNAPSHOT_EXISTS',
        `something is mounted at ${folder} already: unpackd snapshots umount ${folder}`,
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
 * Takes away the mounts of this store that are on top at a folder, and what stands for them in the store. What somebody
 * else mounted there stays; that a restart took the mount away already is fine.
 * @returns what is mounted there still
 * @throws CliError USAGE where what is there is not this store's
 */
export async function unmountAt(store: Snapshotter, folder: string): Promise<MountEntry | undefined> {
  const { unmountTop } = await import('../system/mount.ts');
  const point = await realpath(folder).catch(() => folder);
  let taken = 0;
  let left: MountEntry | undefined;
  for (;;) {
    [left] = mountsAt(point);
    if (left === undefined || !(await isOfStore(store.root, left))) break;
    await unmountTop(point);
    taken += 1;
  }
  let recorded = false;
  if (left === undefined || taken > 0) {
    for (const key of new Set([mountKey(folder), mountKey(point)])) {
      // an active snapshot was mounted as it is, and has no such key
      recorded = (await removeIfThere(store, key)) || recorded;
    }
  }
  if (taken === 0 && !recorded) throw new CliError('USAGE', `${folder} ${instead(left, store)}`);
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
  if (mount === undefined) return `is no mount: nothing of the store ${root} is mounted there`;
  return `has ${describe(mount)} mounted, not a snapshot of the store ${root}: to unmount that, use umount(8); for a snapshot of another store say --root`;
}

/** For a sentence: `a tmpfs`, `an overlay`. */
export function describe({ type, source, root }: MountEntry): string {
  const name = `${/^[aeiou]/.test(type) ? 'an' : 'a'} ${type}`;
  if (type === 'overlay' || source === type || source === 'none') return name;
  return `${name} (${source}${root === '/' ? '' : `, its ${root}`})`;
}
