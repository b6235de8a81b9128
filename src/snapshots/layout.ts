import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { copyTree } from './copy-tree.ts';
import type { SnapshotDirectories, Staged } from './directories.ts';
import type { Chain } from './metadata.ts';
import type { Mount, OverlayXattrs, Snapshotter } from './snapshotter.ts';

/** What one type of store does in its own way; everything else is SnapshotStore's. */
export interface Layout {
  readonly type: Snapshotter['type'];
  readonly rebase: boolean;
  readonly overlayXattrs: OverlayXattrs;
  /**
   * Fills the empty directory of a new snapshot. `parentTree` is the tree that it stands on, if any.
   * @throws UnpackError, system errors, the signal's reason
   */
  fill(staged: Staged, kind: 'active' | 'view', parentTree: string | undefined, signal: AbortSignal): Promise<void>;
  /** Where an active snapshot or a view is to be had. */
  mounts(chain: Chain, directories: SnapshotDirectories): Mount[];
}

export interface OverlayOptions {
  /** The kernel knows `index`: it is turned off, because it would tie a layer to the first mount that it was part of. */
  readonly index: boolean;
  readonly overlayXattrs: OverlayXattrs;
}

/**
 * Each snapshot is one directory with what its layer adds, and overlayfs merges it with those below. Nothing of a parent
 * is needed to write a layer, so a layer may get its parent as late as at its commit.
 */
export function overlayLayout({ index, overlayXattrs }: OverlayOptions): Layout {
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

/** Each snapshot is a whole tree: an exact copy of its parent's, and then what its layer changes in it. */
export const nativeLayout: Layout = {
  type: 'native',
  // what a layer removes can only be removed from a tree that is there
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

/** Makes the root of a snapshot's tree, which is 0755 whatever the umask. */
async function makeTree(directory: string): Promise<void> {
  await makeDirectory(join(directory, 'fs'), 0o755);
}

/** A directory of exactly this mode. */
async function makeDirectory(path: string, mode: number): Promise<void> {
  await mkdir(path, { mode });
  await chmod(path, mode);
}

/** The whole tree in one place, for a snapshot that needs nothing merged. */
function bind(tree: string, kind: Chain['kind']): Mount {
  return { type: 'bind', source: tree, options: [kind === 'active' ? 'rw' : 'ro', 'rbind'] };
}
