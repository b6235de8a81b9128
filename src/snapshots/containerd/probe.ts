import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isMissing } from '../../errno.ts';
import { UnpackError } from '../../errors.ts';
import type { ContainerdClient } from '../../grpc/client.ts';
import { type FileSystemFacts, fileSystemFacts } from '../../system/filesystem.ts';
import { failureAt } from '../directories.ts';
import type { Mount, OverlayXattrs } from '../snapshotter.ts';
import { treeOf } from './exchange.ts';
import type { SnapshotterPlace } from './opened.ts';
import type { State } from './state.ts';
import { LABEL_STATE, mountsOf } from './wire.ts';

/**
 * Tries whether this process and containerd see the same directories: the paths in containerd's mounts are those of containerd's
 * mount namespace, and this process is often in a container. The opening calls it before any layer is written, and `unpackd
 * doctor`.
 */

type Place = Omit<SnapshotterPlace, 'overlayXattrs'>;

/**
 * Prepares a snapshot, writes a file into its directory here, and lets containerd count the files there.
 * @returns the namespace of extended attributes for overlayfs's marks
 * @throws UnpackError STORE_FAILED with the reason why layers cannot be written here; GrpcError
 */
export async function probeSnapshotter(
  client: ContainerdClient,
  place: Place,
  state: Pick<State, 'id'>,
  lease: { readonly id: string },
): Promise<OverlayXattrs> {
  const { snapshotter } = place;
  const under = { lease: lease.id };
  const name = `unpackd-${state.id}-probe-${randomBytes(6).toString('hex')}`;
  const prepare = async (key: string, parent: string) => {
    const request = { snapshotter, key, parent, labels: { [LABEL_STATE]: state.id } };
    return mountsOf((await client.snapshots.Prepare(request, under)).mounts);
  };
  // what is left behind is under the lease
  const remove = (key: string) => client.snapshots.Remove({ snapshotter, key }, under).catch(() => {});
  const [first, second] = [`${name}-1`, `${name}-2`];
  const mounts = await prepare(first, '');
  try {
    const facts = await writeBesides(treeOf(mounts), place);
    const { inodes } = await client.snapshots.Usage({ snapshotter, key: first });
    // the directory and the file
    if (inodes < 2) throw elsewhere(treeOf(mounts), place);
    requireOverlay(facts, place);
    if (snapshotter === 'overlayfs') return attributesOf(facts);
    // of another snapshotter only the mounts of a second layer show what it is
    await client.snapshots.Commit({ snapshotter, name, key: first }, under);
    requireOverlayMount(await prepare(second, name), place);
    return attributesOf(facts);
  } finally {
    for (const key of [first, second, name]) await remove(key);
  }
}

async function writeBesides(tree: string, place: Place): Promise<FileSystemFacts> {
  try {
    const facts = await fileSystemFacts(tree);
    await writeFile(join(tree, 'probe'), '');
    return facts;
  } catch (error) {
    throw isMissing(error) ? elsewhere(tree, place) : failureAt(error, tree, 'containerd');
  }
}

function attributesOf({ trustedXattrs }: FileSystemFacts): OverlayXattrs {
  // overlayfs checks the same: only root of the whole machine can use trusted.*, not root of a user namespace
  return trustedXattrs ? 'trusted' : 'user';
}

function requireOverlay({ type, trustedXattrs, userXattrs, whiteouts }: FileSystemFacts, place: Place): void {
  if (!trustedXattrs && !userXattrs) {
    throw refused(place, `its file system (${type}) keeps neither trusted.* nor user.* attributes here`, 'run as root');
  }
  if (!whiteouts) {
    throw refused(place, `this user can't make overlayfs whiteouts there`, 'run with CAP_MKNOD, or as root');
  }
}

function requireOverlayMount([mount]: readonly Mount[], place: Place): void {
  if (mount?.type === 'overlay' && treeOf([mount]).startsWith(`${place.root}/`)) return;
  throw refused(
    place,
    `it mounts layers by ${mount?.type ?? 'nothing'}, not by an overlay`,
    'set UNPACK_CONTAINERD_SNAPSHOTTER=overlayfs',
  );
}

function elsewhere(tree: string, place: Place): UnpackError {
  return refused(
    place,
    `${tree} is not here what it is for containerd`,
    `mount ${place.root} at the same path, from the same file system`,
  );
}

function refused({ socket, snapshotter, root }: Place, why: string, advice: string): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `the snapshotter ${snapshotter} of containerd at ${socket} (${root}) can't be used as the snapshot store: ${why}: ${advice}`,
  );
}
