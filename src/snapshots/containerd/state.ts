import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, isMissing } from '../../errno.ts';
import { UnpackError } from '../../errors.ts';
import { makeDirectories } from '../../system/make-directories.ts';

/**
 * The directory of this program's own files for one snapshotter of one containerd: locks on chain IDs, leases, and the ID by
 * which processes that share the directory recognise what they have made in containerd. Nothing of it lies in containerd's
 * own directories.
 */

export interface State {
  /** An absolute path. */
  readonly path: string;
  /** Hexadecimal digits. */
  readonly id: string;
}

const ID_FILE = 'id';
const ID_BYTES = 8;

/** @param dataRoot the directory of the snapshotter, because another containerd has other snapshots of the same names */
export function statePath(
  root: string,
  {
    namespace,
    snapshotter,
    dataRoot,
  }: { readonly namespace: string; readonly snapshotter: string; readonly dataRoot: string },
): string {
  const hash = createHash('sha256').update(dataRoot).digest('hex').slice(0, 12);
  return join(root, 'containerd', `${namespace}-${snapshotter}-${hash}`);
}

/** Opens the directory, or makes it with a new ID. @throws UnpackError STORE_FAILED if its ID is damaged; system errors */
export async function openState(path: string): Promise<State> {
  await makeDirectories(path, 0o700);
  return { path, id: stateId(path) ?? (await makeId(join(path, ID_FILE))) };
}

/** The ID of a state directory; `undefined` if there is none. @throws UnpackError STORE_FAILED if it is damaged; system errors */
export function stateId(path: string): string | undefined {
  return readId(join(path, ID_FILE));
}

/** @returns `undefined` if there is no file @throws UnpackError STORE_FAILED if it has no ID */
function readId(file: string): string | undefined {
  let text: string;
  try {
    text = readFileSync(file, 'utf8').trim();
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
  if (/^[0-9a-f]{16}$/.test(text)) return text;
  throw new UnpackError(
    'STORE_FAILED',
    `${file} has no ID of a state directory: stop all workers, and remove the file`,
  );
}

/** The file appears with its content. If another process has made it first, its ID is returned. */
async function makeId(file: string): Promise<string> {
  const id = randomBytes(ID_BYTES).toString('hex');
  const next = `${file}.${id}`;
  const handle = await open(next, 'wx', 0o600);
  try {
    await handle.writeFile(`${id}\n`);
    await handle.sync();
    await link(next, file);
    return id;
  } catch (error) {
    const other = errnoOf(error) === 'EEXIST' ? readId(file) : undefined;
    if (other === undefined) throw error;
    return other;
  } finally {
    await handle.close();
    await unlink(next);
  }
}
