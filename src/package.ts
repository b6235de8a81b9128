import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Where the package is on disk, and its version. */

/** Whether this code runs from `dist` (`npm run build`) and not from the source. */
export const built: boolean = !import.meta.filename.endsWith('.ts');

/** The folder that contains package.json. It is one level above `src`, and two levels above `dist/src`. */
export const packageRoot: string = join(import.meta.dirname, built ? '../..' : '..');

/** The version in package.json. */
export const version: string = (() => {
  const description: unknown = JSON.parse(readFileSync(`${packageRoot}/package.json`, 'utf8'));
  const found = typeof description === 'object' && description !== null && 'version' in description;
  return found ? String(description.version) : 'unknown';
})();
