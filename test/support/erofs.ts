import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { skipFor } from './present.ts';

/** The reason to skip a test that mounts an EROFS image of 512-byte blocks (Linux 6.4). @throws Error as `skipFor` does */
export function skipWithoutErofs(): string | false {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  if (major < 6 || (major === 6 && minor < 4)) return skipFor(`Linux ${release()} has no EROFS with small blocks`);
  spawnSync('modprobe', ['erofs'], { stdio: 'ignore' });
  const known = /\berofs\b/.test(readFileSync('/proc/filesystems', 'utf8'));
  return skipFor(!known && 'this kernel has no EROFS');
}
