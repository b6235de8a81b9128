import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { fileSystemFacts, overlayFacts } from '../../src/system/filesystem.ts';

/** Where the demo keeps everything, and which store can be had there. */
export interface Place {
  readonly folder: string;
  readonly snapshotter: Snapshotter['type'];
  /** Why it is not an overlay store. */
  readonly note?: string;
}

/** Bytes for the image in four forms: files, blobs, objects in the bucket, snapshots. */
const NEEDED = 1.5 * 1024 ** 3;

/** A new folder where overlays can be mounted and where there is room: of the temporary ones, or else of the project. */
export async function findPlace(packageRoot: string): Promise<Place> {
  let why: string | undefined;
  for (const parent of [tmpdir(), join(packageRoot, '.demo')]) {
    try {
      await mkdir(parent, { recursive: true });
      if ((await fileSystemFacts(parent)).freeBytes < NEEDED) continue;
      const { mountable, reason } = await overlayFacts(parent);
      if (mountable) return { folder: await mkdtemp(join(parent, 'unpackd-demo-')), snapshotter: 'overlay' };
      why ??= process.geteuid?.() === 0 ? reason : 'only root can mount an overlay';
    } catch (error) {
      why ??= error instanceof Error ? error.message : String(error);
    }
  }
  return {
    folder: await mkdtemp(join(tmpdir(), 'unpackd-demo-')),
    snapshotter: 'native',
    note: why ?? 'there is little room',
  };
}
