import type { Foreknowledge } from './foreknowledge.ts';
import type { Remembered } from './remembered.ts';
import type { Root } from './root.ts';
import type { Deletion } from './whiteouts.ts';

/**
 * What a layer deletes after it was in the way: a directory that the layer has written into by then, and, in a full copy,
 * a link that its paths led through. Through that it wrote to where the link leads, and should have written into a
 * directory of its own: what a layer deletes is not there for its entries, wherever it says so.
 *
 * All paths have bytes as latin1.
 */
export class LateDeletions {
  /** Directories written into and then deleted; real paths. */
  private readonly directories: string[] = [];
  /** Directories that links led to, as the archive calls them, and where they were. */
  private readonly ways = new Map<string, string>();
  /** Directories and links of the layers below that are gone since then; `direct`: no link led to them. */
  private readonly removed: { readonly path: string; readonly direct: boolean }[] = [];
  private readonly known: readonly string[];
  private readonly remembered: Remembered;

  constructor(remembered: Remembered, known: Foreknowledge | undefined) {
    this.remembered = remembered;
    this.known = known?.deleted ?? [];
  }

  /** Entries of the directory that the archive calls `path` go to the real path `real`. */
  followed(path: string, real: string): void {
    if (path !== real && !this.ways.has(path)) this.ways.set(this.remembered.path(path, real.length), real);
  }

  /**
   * The layer has deleted something.
   * @param path its real path
   * @param parent the directory that it is in, as the archive calls it
   */
  deleted(deletion: Deletion, path: string, parent: Buffer): void {
    if (deletion === 'late') this.directories.push(path);
    if (deletion !== 'removed' || this.ways.size === 0) return;
    this.removed.push({ path: this.remembered.path(path), direct: !this.ways.has(parent.toString('latin1')) });
  }

  /** When everything is written: what the layer must know if it is written once more. */
  foreknowledge(root: Root): Foreknowledge {
    const removed = this.ledThrough(root) ? this.removed : [];
    const direct = removed.filter(({ direct }) => direct);
    // The rest may have been found in the wrong place, through links that will not be there; it is found again.
    const links = (direct.length > 0 ? direct : removed).map(({ path }) => path);
    return { deleted: [...new Set([...this.known, ...(links.length > 0 ? links : this.directories)])] };
  }

  /** Whether it knows more than this time. */
  isMore({ deleted }: Foreknowledge): boolean {
    return deleted.length > this.known.length;
  }

  /** Whether a way that the layer went led through something that it has removed. */
  private ledThrough(root: Root): boolean {
    return this.removed.length > 0 && [...this.ways].some(([path, real]) => root.whereTo(path) !== real);
  }
}
