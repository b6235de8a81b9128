import { cString } from '../system/files.ts';
import type { DirectoryTimes } from './directory-times.ts';
import type { MemoryBudget } from './layer-budget.ts';
import { splitPath } from './paths.ts';
import { isMissingPath, type Root } from './root.ts';
import type { Deletion } from './whiteouts.ts';

/**
 * The findings of a pass over a layer that require a second pass. `LayerWriter` reads a layer once, from the first to
 * the last entry, and possibly before the layers below exist. One pass is enough for nearly all layers. In these rare
 * cases the result of the first pass is discarded, and a second pass starts with the findings of the first:
 *
 * - Full copy: the layer deletes a directory of the layers below after it has written into it. A new directory must be
 *   made instead, because a whiteout hides the directory of the layers below, regardless of the order of the entries.
 * - Full copy: the layer deletes a symbolic link of the layers below after it has written through it. The files belong
 *   into a directory of this layer, not into the link's target.
 * - An implied directory has a default ACL in the layers below. Files that the first pass made in the directory did
 *   not inherit the ACL. In the second pass the layers below exist, so the directory gets its attributes when it is
 *   made.
 */
export interface PassFindings {
  /**
   * Names of the layers below that the layer deletes after it has written to them: real paths below the root, without
   * links, bytes as latin1.
   */
  readonly lateDeletions: readonly string[];
}

/** Maximum number of passes over one layer. Layers from real builders need one, hand-made archives two. */
export const MAX_PASSES = 8;

/**
 * Late deletions: the layer deletes a directory that it has written into or, in a full copy, a symbolic link that it
 * has written through. `LayerWriter` reports every path and every deletion here. The bytes of all paths are decoded as
 * latin1.
 */
export class LateDeletions {
  /** Real paths of directories that were written into and then deleted. */
  private readonly directories: string[] = [];
  /**
   * Directories that were reached through symbolic links. The key is the path in the archive, the value is the real
   * path.
   */
  private readonly followed = new Map<string, string>();
  /** Removed directories and links of the layers below; `direct`: the path in the archive leads through no link. */
  private readonly removed: { readonly path: string; readonly direct: boolean }[] = [];
  private readonly earlier: readonly string[];
  private readonly budget: MemoryBudget;

  /** @param findings of the previous pass */
  constructor(budget: MemoryBudget, findings: PassFindings | undefined) {
    this.budget = budget;
    this.earlier = findings?.lateDeletions ?? [];
  }

  /** Removes the late deletions of the previous pass from a full copy. Called before the first entry. */
  removeKnown(root: Root, times: DirectoryTimes): void {
    for (const path of this.earlier) {
      const { parent: parentPath, name } = splitPath(Buffer.from(path, 'latin1'));
      let parent: number;
      try {
        parent = root.directory(parentPath);
      } catch (error) {
        if (isMissingPath(error)) continue; // the layer itself makes the missing directories of this path
        throw error;
      }
      const realParent = root.realPath(parent);
      this.entered(parentPath.toString('latin1'), realParent);
      times.keep(parent, realParent);
      if (realParent === parentPath.toString('latin1')) root.removeAll(parent, cString(name));
    }
  }

  /** An entry is written into a directory. `path` is its path in the archive, `real` its real path. */
  entered(path: string, real: string): void {
    if (path !== real && !this.followed.has(path)) this.followed.set(this.budget.charge(path, real.length), real);
  }

  /**
   * The layer has deleted something.
   * @param path its real path
   * @param parent the path of its directory in the archive
   */
  deleted(deletion: Deletion, path: string, parent: Buffer): void {
    if (deletion === 'late') this.directories.push(path);
    if (deletion !== 'removed' || this.followed.size === 0) return;
    this.removed.push({ path: this.budget.charge(path), direct: !this.followed.has(parent.toString('latin1')) });
  }

  /** The findings for the next pass: those of the previous pass and of this pass. Call it after the last entry. */
  findings(root: Root): PassFindings {
    const removed = this.removedFollowedLink(root) ? this.removed : [];
    const direct = removed.filter((deletion) => deletion.direct);
    // After a link was removed, other paths lead to other places, so only the next pass can find their real paths.
    const links = (direct.length > 0 ? direct : removed).map(({ path }) => path);
    return { lateDeletions: [...new Set([...this.earlier, ...(links.length > 0 ? links : this.directories)])] };
  }

  /** Whether this pass has found more than the previous pass. */
  hasNew({ lateDeletions }: PassFindings): boolean {
    return lateDeletions.length > this.earlier.length;
  }

  private removedFollowedLink(root: Root): boolean {
    return this.removed.length > 0 && [...this.followed].some(([path, real]) => root.whereTo(path) !== real);
  }
}
