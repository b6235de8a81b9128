import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { freemem, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileSystemFacts } from '../src/system/filesystem.ts';
import { mountTable } from '../src/system/mount-table.ts';
import { atExit } from './at-exit.ts';

/** The working folder. It is removed when the process ends, in whatever way. */
export interface WorkFolder {
  readonly path: string;
  /** The type from statfs(2): `tmpfs`, `ext4`… */
  readonly fileSystem: string;
}

/** The part of the free memory that the tmpfs may use. The rest is for the programs. */
const SHARE_OF_MEMORY = 0.75;

/**
 * Makes a new folder in `parent`. Without `parent` it is a new tmpfs, because a disk makes the figures noisy; without
 * the right to mount it is a temporary folder.
 */
export async function makeWorkFolder(parent: string | undefined): Promise<WorkFolder> {
  if (parent !== undefined) mkdirSync(parent, { recursive: true });
  // lower case, because podman makes the name of an image from the path
  const path = join(parent ?? tmpdir(), `unpackd-bench-${randomUUID().slice(0, 8)}`);
  mkdirSync(path);
  if (parent === undefined) {
    const size = Math.floor(freemem() * SHARE_OF_MEMORY);
    spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=755`, 'unpackd-bench', path], { stdio: 'ignore' });
  }
  atExit(() => removeTree(path));
  return { path, fileSystem: (await fileSystemFacts(path)).type };
}

/** Unmounts everything on and below a folder, and removes it. */
export function removeTree(path: string): void {
  for (const mountPoint of mountsIn(path)) {
    if (spawnSync('umount', [mountPoint], { stdio: 'ignore' }).status !== 0)
      spawnSync('umount', ['--lazy', mountPoint], { stdio: 'ignore' });
  }
  rmSync(path, { recursive: true, force: true });
}

/** Mount points on and below a folder, the innermost first. */
function mountsIn(path: string): string[] {
  return mountTable()
    .map(({ point }) => point)
    .filter((point) => point === path || point.startsWith(`${path}/`))
    .reverse();
}
