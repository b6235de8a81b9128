import { lchown, lstat, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Mount } from '../snapshotter.ts';
import { syncDirectory } from '../tree.ts';

/**
 * The directories of containerd's active snapshots, and how a finished layer moves from one to another. A snapshotter without
 * the capability `rebase` gives no parent to a snapshot at its commit: so the layer is written into a snapshot without a parent,
 * and its tree moves into a second snapshot when the parent is there.
 */

/** The directory that the files of an active snapshot are written into. @throws Error for a mount of another kind */
export function treeOf([mount, ...others]: readonly Mount[]): string {
  const upper = mount?.options.find((option) => option.startsWith(UPPER))?.slice(UPPER.length);
  const tree = upper ?? (mount?.type === 'bind' ? mount.source : undefined);
  if (tree === undefined || others.length > 0) throw new Error(`no directory to write to in ${JSON.stringify(mount)}`);
  return tree;
}

const UPPER = 'upperdir=';
const LOWER = 'lowerdir=';
const WORK = 'workdir=';

/** The mounts that a view of a snapshot has after the commit, from its mounts while it is active. */
export function viewOf([mount]: readonly Mount[]): readonly Mount[] | undefined {
  if (mount === undefined) return undefined;
  if (mount.type === 'bind') {
    return [{ ...mount, options: mount.options.map((option) => (option === 'rw' ? 'ro' : option)) }];
  }
  const tree = mount.options.find((option) => option.startsWith(UPPER))?.slice(UPPER.length);
  if (tree === undefined) return undefined;
  const options = mount.options.flatMap((option) => {
    if (option.startsWith(UPPER) || option.startsWith(WORK)) return [];
    return [withLower(option, tree)];
  });
  return [{ ...mount, options }];
}

/**
 * The mounts of a view of a layer whose parent has these.
 * @returns `undefined` if the parent is a bottom layer: its bind mount does not show what options an overlay has
 */
export function viewOn(tree: string, [mount]: readonly Mount[]): readonly Mount[] | undefined {
  if (mount?.type !== 'overlay') return undefined;
  return [{ ...mount, options: mount.options.map((option) => withLower(option, tree)) }];
}

function withLower(option: string, tree: string): string {
  return option.startsWith(LOWER) ? `${LOWER}${tree}:${option.slice(LOWER.length)}` : option;
}

/** The tree of the snapshot that these view mounts show. @throws Error for mounts of another kind */
export function topTreeOf([mount, ...others]: readonly Mount[]): string {
  const lowers = mount?.options.find((option) => option.startsWith(LOWER))?.slice(LOWER.length);
  const tree = mount?.type === 'bind' ? mount.source : lowers?.split(':')[0];
  if (tree === undefined || others.length > 0) throw new Error(`no directory to read in ${JSON.stringify(mount)}`);
  return tree;
}

/**
 * Moves a tree over the empty one of a snapshot that has a parent. Its root gets the owner of the empty one, which containerd
 * has taken from the parent's root.
 * @param durable whether the move must be on disk when it returns; the files themselves are already
 * @throws system errors
 */
export async function moveTree(from: string, onto: string, durable: boolean): Promise<void> {
  const { uid, gid } = await lstat(onto);
  await rename(from, onto);
  await giveOwner(onto, { uid, gid });
  if (!durable) return;
  // the tree, whose `..` has changed, its new directory, and the directory of all snapshots, in which containerd made that one
  for (const path of [onto, dirname(onto), dirname(dirname(onto))]) await syncDirectory(path);
}

/** Gives the root of a tree the owner of its parent's root. @throws system errors */
export async function giveOwnerOf(parent: string, tree: string, durable: boolean): Promise<void> {
  if ((await giveOwner(tree, await lstat(parent))) && durable) await syncDirectory(tree);
}

async function giveOwner(tree: string, { uid, gid }: { readonly uid: number; readonly gid: number }): Promise<boolean> {
  const own = await lstat(tree);
  if (own.uid === uid && own.gid === gid) return false;
  await lchown(tree, uid, gid);
  return true;
}
