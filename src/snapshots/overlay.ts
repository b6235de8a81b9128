import { join } from 'node:path';
import { bind, type Layout, makeDirectory, makeTree } from './layout.ts';
import type { OverlayXattrs } from './snapshotter.ts';

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
