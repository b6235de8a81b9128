import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
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

/** Makes the root of a snapshot's tree, which is 0755 whatever the umask. */
export async function makeTree(directory: string): Promise<void> {
  await makeDirectory(join(directory, 'fs'), 0o755);
}

/** A directory of exactly this mode. */
export async function makeDirectory(path: string, mode: number): Promise<void> {
  await mkdir(path, { mode });
  await chmod(path, mode);
}

/** The whole tree in one place, for a snapshot that needs nothing merged. */
export function bind(tree: string, kind: Chain['kind']): Mount {
  return { type: 'bind', source: tree, options: [kind === 'active' ? 'rw' : 'ro', 'rbind'] };
}
