import { UnpackError } from '../errors.ts';
import type { Mount, OverlayXattrs, Ownership, Snapshotter } from '../snapshots/snapshotter.ts';

/** Where a layer is written, and how deletions are kept there. */
export interface DiffTarget {
  /** The directory that takes the layer. */
  readonly root: string;
  /** Directories of the layers below, nearest first, where they are apart from `root`. */
  readonly lowers: readonly string[];
  /**
   * `overlay`: as overlayfs wants them in an upper directory. `remove`: the directory holds the layers below too, and
   * deleted names are removed from it. `none`: there is nothing below.
   */
  readonly whiteouts: 'overlay' | 'remove' | 'none';
  /** The attribute that makes a directory opaque in an overlay. */
  readonly opaqueXattr: `${OverlayXattrs}.overlay.opaque`;
  readonly ownership: Ownership;
  /** The whole tree will be copied to write the layers above. */
  readonly copied: boolean;
}

/** What the mounts of a snapshot don't tell: a bind doesn't say how the overlay that it becomes part of will be mounted. */
export type StoreTraits = Pick<Snapshotter, 'type' | 'ownership' | 'overlayXattrs'>;

/**
 * What the mounts of an active snapshot in a store mean for the applier. An overlay is never mounted to be written: the layer goes
 * straight into its upper directory, which is what makes the result independent of the kernel's copy-up.
 * @param below what a plain bind holds: `nothing`, `everything` (a full copy), or layers that come `later`
 * @throws UnpackError STORE_FAILED for mounts that cannot be written to
 */
export function diffTarget(
  mounts: readonly Mount[],
  below: 'nothing' | 'everything' | 'later',
  { type, ownership, overlayXattrs }: StoreTraits,
): DiffTarget {
  const [mount] = mounts;
  if (mounts.length !== 1 || mount === undefined) {
    throw new UnpackError('STORE_FAILED', `expected one mount to write a layer to, got ${mounts.length}`);
  }
  const option = (name: string): string | undefined =>
    mount.options.find((text) => text.startsWith(`${name}=`))?.slice(name.length + 1);
  const common = { opaqueXattr: `${overlayXattrs}.overlay.opaque`, ownership, copied: type === 'native' } as const;
  if (mount.type === 'bind') {
    if (mount.options.includes('ro')) throw new UnpackError('STORE_FAILED', `${mount.source} is mounted read-only`);
    const whiteouts = below === 'nothing' ? 'none' : below === 'everything' ? 'remove' : 'overlay';
    return { root: mount.source, lowers: [], whiteouts, ...common };
  }
  const root = option('upperdir');
  if (root === undefined) throw new UnpackError('STORE_FAILED', 'the overlay mount has no upper directory to write to');
  return { root, lowers: option('lowerdir')?.split(':') ?? [], whiteouts: 'overlay', ...common };
}
