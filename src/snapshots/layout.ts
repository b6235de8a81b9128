import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { overlayKnowsIndex } from '../system/filesystem.ts';
import { copyTree } from './copy-tree.ts';
import type { SnapshotDirectories, Staged } from './directories.ts';
import type { Chain } from './entries.ts';
import type { Mount, OverlayXattrs, Snapshotter } from './snapshotter.ts';

/** The part of SnapshotStore that differs between the two types of store: how a snapshot is filled and mounted. */
export interface Layout {
  readonly type: Snapshotter['type'];
  readonly rebase: boolean;
  readonly overlayXattrs: OverlayXattrs;
  /**
   * Fills the empty directory of a new snapshot.
   * @param parentTree the tree of its parent, if it has one
   * @throws UnpackError, system errors, the signal's reason
   */
  fill(staged: Staged, kind: 'active' | 'view', parentTree: string | undefined, signal: AbortSignal): Promise<void>;
  /** The mounts of an active snapshot or a view. */
  mounts(chain: Chain, directories: SnapshotDirectories): Mount[];
}

/** The layout of a store with these properties. */
export async function layoutOf({ type, overlayXattrs }: Pick<Snapshotter, 'type' | 'overlayXattrs'>): Promise<Layout> {
  if (type === 'native') return nativeLayout;
  return overlayLayout({ overlayXattrs, index: await overlayKnowsIndex() });
}

/** The mounts of an image without layers. One array, so that callers can compare mounts by identity. */
export const NOTHING_TO_MOUNT: readonly Mount[] = [];

/** The mounts of a view of a committed snapshot, which need not exist. */
export function viewMounts(layout: Layout, { id, parents }: Chain, directories: SnapshotDirectories): Mount[] {
  return layout.mounts({ id, kind: 'view', parents: [id, ...parents] }, directories);
}

interface OverlayOptions {
  /** Whether the kernel has the option `index`. It is turned off, because it would bind a layer to its first mount. */
  readonly index: boolean;
  readonly overlayXattrs: OverlayXattrs;
}

/**
 * Each snapshot is a directory with what its layer adds. overlayfs merges it with the layers below. Writing a layer does
 * not need its parent, so the parent can be set at the commit.
 */
function overlayLayout({ index, overlayXattrs }: OverlayOptions): Layout {
  const always = [...(overlayXattrs === 'user' ? ['userxattr'] : []), ...(index ? ['index=off'] : [])];
  return {
    type: 'overlay',
    rebase: true,
    overlayXattrs,

    async fill({ path }, kind) {
      await makeTree(path);
      if (kind === 'active') await makeDirectory(join(path, 'work'), 0o711);
    },

    mounts({ id, kind, parents }, directories) {
      const [parent, ...others] = parents;
      if (parent === undefined) return [bind(directories.tree(id), kind)];
      if (kind !== 'active' && others.length === 0) return [bind(directories.tree(parent), kind)];
      const writable = kind === 'active' ? [`workdir=${directories.work(id)}`, `upperdir=${directories.tree(id)}`] : [];
      const lower = `lowerdir=${parents.map((each) => directories.tree(each)).join(':')}`;
      return [{ type: 'overlay', source: 'overlay', options: [...writable, lower, ...always] }];
    },
  };
}

/** Each snapshot is a whole tree: an exact copy of the parent's tree, changed by the layer. */
const nativeLayout: Layout = {
  type: 'native',
  // a whiteout can only remove files that were already copied
  rebase: false,
  overlayXattrs: 'trusted',

  async fill({ path, handle }, kind, parentTree, signal) {
    if (kind === 'view' || parentTree === undefined) return makeTree(path);
    const tree = join(path, 'fs');
    await copyTree(parentTree, tree, handle.fd, signal);
    await chmod(tree, 0o755);
  },

  mounts({ id, kind, parents: [parent] }, directories) {
    return [bind(directories.tree(kind === 'view' && parent !== undefined ? parent : id), kind)];
  },
};

/** Makes the root directory of a snapshot's tree. */
async function makeTree(directory: string): Promise<void> {
  await makeDirectory(join(directory, 'fs'), 0o755);
}

/** Makes a directory with this mode, whatever the umask. */
async function makeDirectory(path: string, mode: number): Promise<void> {
  await mkdir(path, { mode });
  await chmod(path, mode);
}

/** A bind mount of one tree. */
function bind(tree: string, kind: Chain['kind']): Mount {
  return { type: 'bind', source: tree, options: [kind === 'active' ? 'rw' : 'ro', 'rbind'] };
}
