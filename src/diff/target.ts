import { UnpackError } from '../errors.ts';
import { requireTreeOf } from '../snapshots/records.ts';
import type { Mount, OverlayXattrs, Ownership, Snapshotter } from '../snapshots/snapshotter.ts';
import { KernelTree } from './kernel-tree.ts';
import { Root, type RootOptions } from './root.ts';

/**
 * What a layer is written on: `nothing` for a bottom layer; `parent` for a layer on a committed parent; `later` for a
 * layer that gets its parent at commit, so that its whiteouts are kept until the commit.
 */
export type Below = 'nothing' | 'parent' | 'later';

/** Where a layer is written, and what is below it. */
export interface DiffTarget {
  /** The directory that the layer is written to. */
  readonly root: string;
  /** The key of the snapshot, by which `openTarget` recognises the directory. Absent if it has no record. */
  readonly key?: string | undefined;
  readonly below: Below;
  /** Directories of the parent's layers, nearest first. Empty if `root` is a copy of the parent, or there is none yet. */
  readonly lowers: readonly string[];
  /** The attribute that makes a directory opaque in an overlay. */
  readonly opaqueXattr: `${OverlayXattrs}.overlay.opaque`;
  readonly ownership: Ownership;
  /** Who collects in the store, for the advice when the disk is full. */
  readonly collectedBy: Snapshotter['collectedBy'];
  /** Whether the whole tree will be copied to write the layers above (native store). */
  readonly copied: boolean;
}

/** Whether `root` holds a copy of the parent, in which deleted names are removed and no whiteouts are written. */
export function isFullCopy({ below, lowers }: Pick<DiffTarget, 'below' | 'lowers'>): boolean {
  return below === 'parent' && lowers.length === 0;
}

/**
 * Properties of the store that the mounts of a snapshot do not have: a bind mount does not show how its overlay will be
 * mounted later.
 */
export type StoreTraits = Pick<Snapshotter, 'type' | 'ownership' | 'overlayXattrs' | 'marked' | 'collectedBy'>;

/**
 * Turns the mounts of an active snapshot into a target. An overlay is never mounted for writing: the layer goes straight
 * into the upper directory, so the result does not depend on the kernel's copy-up.
 * @throws UnpackError STORE_FAILED for mounts that cannot be written to
 */
export function diffTarget(
  mounts: readonly Mount[],
  below: Below,
  { type, ownership, overlayXattrs, marked, collectedBy }: StoreTraits,
  key?: string,
): DiffTarget {
  const [mount] = mounts;
  if (mounts.length !== 1 || mount === undefined) {
    throw new UnpackError('STORE_FAILED', `expected one mount to write a layer to, got ${mounts.length}`);
  }
  const common = {
    below,
    key: marked ? key : undefined,
    opaqueXattr: `${overlayXattrs}.overlay.opaque`,
    ownership,
    collectedBy,
    copied: type === 'native',
  } as const;
  if (mount.type === 'bind') {
    if (mount.options.includes('ro')) throw new UnpackError('STORE_FAILED', `${mount.source} is mounted read-only`);
    return { root: mount.source, lowers: [], ...common };
  }
  const root = option(mount, 'upperdir');
  if (root === undefined) throw new UnpackError('STORE_FAILED', 'the overlay mount has no upper directory to write to');
  const lowers = lowerDirectories(mounts);
  // without this check the layer's deletions would be applied to its own upper directory
  if (below !== 'parent' || lowers.length === 0) {
    throw new UnpackError(
      'STORE_FAILED',
      `the overlay mount of ${root} does not have the lower directories of a parent`,
    );
  }
  return { root, lowers, ...common };
}

/**
 * Opens the directory of a target. If a disk was mounted over the store since `prepare`, the path may lead to a layer of
 * another image, in which nothing must be written.
 * @throws UnpackError STORE_FAILED if it is not the directory of the snapshot; system errors
 */
export function openTarget({ root, key }: Pick<DiffTarget, 'root' | 'key'>, options: RootOptions = {}): Root {
  const tree = new KernelTree(root);
  try {
    if (key !== undefined) requireTreeOf(key, tree.root);
    return new Root(tree, options);
  } catch (error) {
    tree[Symbol.dispose]();
    throw error;
  }
}

/** The directories of the layers that the mounts of a view show, nearest first. */
export function lowerDirectories(mounts: readonly Mount[]): string[] {
  return mounts.flatMap((mount) =>
    mount.type === 'bind' ? [mount.source] : (option(mount, 'lowerdir')?.split(':') ?? []),
  );
}

function option(mount: Mount, name: string): string | undefined {
  return mount.options.find((text) => text.startsWith(`${name}=`))?.slice(name.length + 1);
}
