import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { copyTree } from './copy-tree.ts';
import { bind, type Layout, makeTree } from './layout.ts';

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
