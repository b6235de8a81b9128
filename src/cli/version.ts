import { readFileSync } from 'node:fs';
import { packageRoot } from './package-root.ts';

/** The version in package.json. */
export const version: string = (() => {
  const description: unknown = JSON.parse(readFileSync(`${packageRoot}/package.json`, 'utf8'));
  const found = typeof description === 'object' && description !== null && 'version' in description;
  return found ? String(description.version) : 'unknown';
})();
