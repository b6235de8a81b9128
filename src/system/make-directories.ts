import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf } from '../errno.ts';

/**
 * As `mkdir -p`. With the `recursive` option of Node, a directory below /proc never ends, and a read-only file system is ENOENT
 * instead of EROFS.
 * @throws system errors
 */
export async function makeDirectories(path: string, mode: number): Promise<void> {
  const make = () =>
    mkdir(path, { mode }).catch((error: unknown) => {
      if (errnoOf(error) !== 'EEXIST') throw error;
    });
  await make().catch(async (error: unknown) => {
    if (errnoOf(error) !== 'ENOENT' || dirname(path) === path) throw error;
    await makeDirectories(dirname(path), mode);
    await make();
  });
}
