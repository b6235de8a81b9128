import { existsSync, statSync } from 'node:fs';
import { copyFile, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { pathToFileURL } from 'node:url';
import { removeTreeSync } from '../system/remove-tree.ts';
import type { Entry } from './entries.ts';
import type { BrokenReason } from './snapshotter.ts';

/**
 * Opens the database of a store without writing or creating anything there. SQLite's own read-only mode creates the shared
 * memory file of the write-ahead log, if it is missing. So the way depends on the files beside the database:
 *
 *     ROOT/metadata.db-shm    a process has the store open, or was killed: read it, with the shared memory as it is
 *     only -wal               the files were copied so: read a copy of both, below the directory for temporary files
 *     neither                 nobody has the store open: read the file alone
 *
 * @throws Error of SQLite; system errors
 */
export async function openReadOnly(path: string): Promise<ReadOnlyDatabase> {
  if (existsSync(`${path}-shm`)) return opened(path, 'readonly_shm=1');
  if (!hasContent(`${path}-wal`)) return opened(path, 'immutable=1');
  const directory = await mkdtemp(join(tmpdir(), 'unpackd-look-'));
  try {
    const copy = join(directory, 'metadata.db');
    await copyFile(path, copy);
    await copyFile(`${path}-wal`, `${copy}-wal`);
    return { file: new DatabaseSync(copy), dispose: () => removeTreeSync(directory) };
  } catch (error) {
    removeTreeSync(directory);
    throw error;
  }
}

export interface ReadOnlyDatabase {
  readonly file: DatabaseSync;
  /** Call it after the file was closed. */
  readonly dispose: () => void;
}

function opened(path: string, option: string): ReadOnlyDatabase {
  const url = pathToFileURL(path);
  url.search = option;
  return { file: new DatabaseSync(url, { readOnly: true, timeout: 1000 }), dispose: () => {} };
}

/** Whether the file exists and is not empty. */
export function hasContent(path: string): boolean {
  return (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 0;
}

/**
 * The committed snapshots whose directories are missing, and all that stand on them. Opening a store for changes marks them
 * in the database; opening it to read cannot.
 * @param present the numbers of the directories
 */
export function lostSnapshots(
  entries: readonly Entry[],
  present: ReadonlySet<number>,
): ReadonlyMap<number, BrokenReason> {
  const lost = new Map<number, BrokenReason>();
  for (const { id, info } of entries) if (info.kind === 'committed' && !present.has(id)) lost.set(id, 'gone');
  // until a pass adds nothing: a row may come before the row of its parent
  for (let known = 0; known < lost.size; ) {
    known = lost.size;
    for (const { id, parentId } of entries) {
      if (parentId !== undefined && lost.has(parentId) && !lost.has(id)) lost.set(id, 'parent');
    }
  }
  return lost;
}
