import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { freemem, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileSystemFacts } from '../src/system/filesystem.ts';
import { atExit } from './at-exit.ts';

/** Where the benchmark works; everything in it goes when the process ends, whatever way it ends. */
export interface WorkFolder {
  readonly path: string;
  /** As statfs(2) says it: `tmpfs`, `ext4`… */
  readonly fileSystem: string;
}

/** Of the free memory: the rest is for the programs that are measured. */
const SHARE_OF_MEMORY = 0.75;

/**
 * A new folder in `parent`, or, where none is given, a tmpfs of our own: memory takes the disk's noise out. Who may not
 * mount gets a folder among the temporary ones.
 */
export async function makeWorkFolder(parent: string | undefined): Promise<WorkFolder> {
  if (parent !== undefined) mkdirSync(parent, { recursive: true });
  // lower-case, because podman makes an image's name of its path
  const path = join(parent ?? tmpdir(), `unpackd-bench-${randomUUID().slice(0, 8)}`);
  mkdirSync(path);
  if (parent === undefined) {
    const size = Math.floor(freemem() * SHARE_OF_MEMORY);
    spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=755`, 'unpackd-bench', path], { stdio: 'ignore' });
  }
  atExit(() => removeTree(path));
  return { path, fileSystem: (await fileSystemFacts(path)).type };
}

/** Removes a folder with all that is mounted in it, and on it. */
export function removeTree(path: string): void {
  for (const mountPoint of mountsIn(path)) {
    if (spawnSync('umount', [mountPoint], { stdio: 'ignore' }).status !== 0)
      spawnSync('umount', ['--lazy', mountPoint], { stdio: 'ignore' });
  }
  rmSync(path, { recursive: true, force: true });
}

/** Innermost first. */
function mountsIn(path: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => line.split(' ')[4] ?? [])
    .filter((mountPoint) => mountPoint === path || mountPoint.startsWith(`${path}/`))
    .reverse();
}
