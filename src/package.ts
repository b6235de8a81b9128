import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Where the package is on disk, and its version. */

/** Whether this code runs from `dist` (`npm run build`) and not from the source. */
export const built: boolean = !import.meta.filename.endsWith('.ts');

/**
 * The folder that contains package.json: the first one above this file that has it. Code is in `src`, in `dist/src`, or, bundled
 * into a program, in `dist/src/cli` or `dist/workers`.
 */
export const packageRoot: string = (() => {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, 'package.json')) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
})();

/** The version in package.json. */
export const version: string = (() => {
  const description: unknown = JSON.parse(readFileSync(`${packageRoot}/package.json`, 'utf8'));
  const found = typeof description === 'object' && description !== null && 'version' in description;
  return found ? String(description.version) : 'unknown';
})();
