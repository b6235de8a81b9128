import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Whether this is what `npm run build` has made, and not the source. */
export const built: boolean = !import.meta.filename.endsWith('.ts');

/** The folder with package.json: two up from here, and one more from dist/, which mirrors the sources. */
export const packageRoot: string = join(import.meta.dirname, built ? '../../..' : '../..');

/** The path of one of our own programs: the source where the source runs, the built file where that does. */
export function program(name: string): string {
  const base = join(dirname(dirname(import.meta.dirname)), name);
  return built ? `${base}.js` : `${base}.ts`;
}

/** The version in package.json. */
export const version: string = (() => {
  const description: unknown = JSON.parse(readFileSync(`${packageRoot}/package.json`, 'utf8'));
  const found = typeof description === 'object' && description !== null && 'version' in description;
  return found ? String(description.version) : 'unknown';
})();
