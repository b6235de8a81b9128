import type { SnapshotInfo, SnapshotReader } from '../snapshots/snapshotter.ts';
import { CliError } from './explain-error.ts';

/** Finds a snapshot by the key that the user wrote, or by its beginning. */

/** Minimum characters of a shortened key or digest. With fewer, `rm` could remove the only snapshot by mistake. */
const MIN_PREFIX = 4;

/** The snapshot with this key, or the only one whose key begins with it. @throws CliError SNAPSHOT_NOT_FOUND, USAGE */
export async function findSnapshot(store: SnapshotReader, key: string): Promise<SnapshotInfo> {
  const infos = await store.walk();
  const exact = infos.find(({ name }) => name === key);
  if (exact !== undefined) return exact;
  const alike = infos.filter(({ name }) => digestBegins(name, key));
  const [only, second] = alike;
  if (only === undefined) {
    throw new CliError(
      'SNAPSHOT_NOT_FOUND',
      `${store.root} has no snapshot ${JSON.stringify(key)}: unpackd snapshots ls lists all`,
    );
  }
  if (second !== undefined)
    throw new CliError('USAGE', `${alike.length} keys begin with ${JSON.stringify(key)}: write more of the key`);
  requireLength(key, 'key');
  return only;
}

/** Whether a key or a digest begins with `text`. The algorithm of a digest can be left out. */
export function digestBegins(key: string, text: string): boolean {
  return key.startsWith(text) || key.startsWith(`sha256:${text}`);
}

/** @param what the noun for the message @throws CliError USAGE if the beginning of a key is too short */
export function requireLength(text: string, what: string): void {
  if (text.replace(/^sha\d*:?/, '').length >= MIN_PREFIX) return;
  throw new CliError(
    'USAGE',
    `${JSON.stringify(text)} is too short: write at least ${MIN_PREFIX} characters of the ${what}`,
  );
}

/** A digest shortened to what `findSnapshot` accepts; other keys unchanged. */
export function shortKey(key: string): string {
  return key.replace(/^(sha\d+:[0-9a-f]{12})[0-9a-f]+$/, '$1');
}

/** The same without the algorithm, for the columns of a table. */
export function shortHex(key: string): string {
  return key.replace(/^sha256:([0-9a-f]{12})[0-9a-f]+$/, '$1');
}
