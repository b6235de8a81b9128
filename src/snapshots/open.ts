import { access, mkdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { toUnpackError, UnpackError } from '../errors.ts';
import { fileSystemFacts, overlayKnowsIndex } from '../system/filesystem.ts';
import { privileges } from '../system/privileges.ts';
import { requireExactCopier } from './copy-tree.ts';
import { LOCK_TIMEOUT } from './database.ts';
import { SnapshotDirectories, snapshotsDirectory, storeGone } from './directories.ts';
import { type Layout, nativeLayout, overlayLayout } from './layout.ts';
import { Metadata } from './metadata.ts';
import { keepReserve, spendReserve } from './reserve.ts';
import type { Traits } from './schema.ts';
import type { OverlayXattrs, Ownership, Snapshotter } from './snapshotter.ts';
import { CLOSE_LIMIT, SnapshotStore } from './store.ts';

export interface StoreOptions {
  /** The store's own directory. It is made if it is missing. */
  readonly root: string;
  readonly type: Snapshotter['type'];
  /**
   * What to do with the owners of files. Only needed to write layers. All layers of a store must be the same. Default: what
   * the store was made with; `keep` for a new store.
   */
  readonly ownership?: Ownership;
  /** The store was open before. If it has disappeared, its disk may not be mounted, and no new store is made. */
  readonly again?: boolean;
  /** How long a call waits for other processes that change the store, in milliseconds; default 10 s. */
  readonly lockTimeout?: number;
}

/** The database file of the store at `root`. */
export const metadataFile = (root: string): string => join(root, 'metadata.db');

/**
 * Opens the snapshot store at `root`, or makes one. Any number of processes and threads may have it open.
 * @throws UnpackError STORE_FAILED if the directory cannot be used, or holds other data or the other type of store, or if
 *   `ownership` is `keep` and this process cannot keep owners; STORE_FULL
 */
export async function openSnapshotter(options: StoreOptions): Promise<Snapshotter> {
  const root = resolve(options.root);
  // separators in mount options; not every program that reads mount options can quote them
  const separator = /[:,\\"\n]/.exec(root);
  if (separator !== null)
    throw refused(root, `its name has ${JSON.stringify(separator[0])}, which no mount option can hold`);
  if (options.ownership === 'keep') requireOwners();
  if (options.again === true) await access(metadataFile(root)).catch((error: unknown) => throwGone(root, error));
  // 0700: other users must not reach the files of an image, such as set-user-ID programs
  await makeDirectories(snapshotsDirectory(root)).catch((error: unknown) => {
    throw refused(root, reason(error), error);
  });
  const store = await openIn(root, options).catch(async (error: unknown) => {
    if (toUnpackError(error).code !== 'STORE_FULL' || !(await spendReserve(root))) throw error;
    return openIn(root, options);
  });
  await keepReserve(root);
  return store;
}

async function openIn(root: string, options: StoreOptions): Promise<Snapshotter> {
  const directories = new SnapshotDirectories(root);
  let metadata: Metadata | undefined;
  try {
    const { type, ownership } = options;
    const overlayXattrs = await (type === 'overlay' ? requireOverlay(root, directories) : requireNative());
    const location = { path: metadataFile(root), lockTimeout: options.lockTimeout ?? LOCK_TIMEOUT };
    metadata = await Metadata.open(location, { type, ownership, overlayXattrs });
    const layout = await layoutOf(metadata.made);
    await forgetLost(metadata, directories, root);
    return new SnapshotStore(root, layout, metadata, directories);
  } catch (error) {
    await directories.close(CLOSE_LIMIT);
    metadata?.close();
    throw error instanceof UnpackError ? error : refused(root, reason(error), error);
  }
}

/** As `mkdir -p`. Node's `recursive` option throws ENOENT on a read-only file system instead of EROFS. */
async function makeDirectories(path: string): Promise<void> {
  const make = () =>
    mkdir(path, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  await make().catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    await makeDirectories(dirname(path));
    await make();
  });
}

/** @throws UnpackError STORE_FAILED if this process cannot give files to the owners that an image names */
function requireOwners(): void {
  const { user, cannotKeepOwners } = privileges();
  if (cannotKeepOwners === undefined) return;
  throw new UnpackError(
    'STORE_FAILED',
    `${user} can't give files to the owners that images name (${cannotKeepOwners}): run as root, or set UNPACK_OWNERSHIP=squash, which gives all files to this user and leaves out devices`,
  );
}

async function requireNative(): Promise<OverlayXattrs> {
  await requireExactCopier();
  return 'trusted';
}

/**
 * Checks that the file system has what overlayfs needs.
 * @returns the namespace of extended attributes for overlayfs's marks
 * @throws UnpackError STORE_FAILED
 */
async function requireOverlay(root: string, directories: SnapshotDirectories): Promise<OverlayXattrs> {
  // the checks run in a staged directory, which a cleanup removes if this process dies
  const staged = await directories.stage();
  const facts = await fileSystemFacts(staged.path).finally(() => directories.release(staged));
  if (!facts.directoryTypes) {
    throw refused(
      root,
      `its file system (${facts.type}) doesn't report the types of names (d_type), which overlayfs needs (XFS: ftype=1)`,
    );
  }
  if (!facts.trustedXattrs && !facts.userXattrs) {
    throw refused(
      root,
      `its file system (${facts.type}) keeps neither trusted.* nor user.* attributes, and opaque directories need one of them`,
    );
  }
  if (!facts.whiteouts && facts.type === 'overlay') {
    throw refused(
      root,
      'it lies on an overlay, as the root file system of a container does, and overlays can’t be stacked there: mount a volume or a directory of the host at it, or use --snapshotter native, which copies',
    );
  }
  if (!facts.whiteouts) {
    throw refused(root, "this user can't make overlayfs whiteouts there, the character device 0:0 (needs Linux 5.8)");
  }
  // overlayfs checks the same: only root of the whole machine can use trusted.*, not root of a user namespace
  return facts.trustedXattrs ? 'trusted' : 'user';
}

async function layoutOf({ type, overlayXattrs }: Traits): Promise<Layout> {
  if (type === 'native') return nativeLayout;
  return overlayLayout({ overlayXattrs, index: await overlayKnowsIndex() });
}

/**
 * Deletes rows whose directory is missing. A loss of power can lose the directory of an active snapshot, because its name is
 * flushed only at the commit. Such a snapshot holds no finished layer. If the directory of a committed snapshot is
 * missing, something else is wrong, and deleting rows could lose every image.
 * @throws UnpackError STORE_FAILED if a committed snapshot has no directory
 */
async function forgetLost(metadata: Metadata, directories: SnapshotDirectories, root: string): Promise<void> {
  await metadata.exclusively((kinds, forget) => {
    const present = directories.present();
    const lost = [...kinds].filter(([id]) => !present.has(id));
    const committed = lost.find(([, kind]) => kind === 'committed');
    if (committed !== undefined) {
      const path = directories.path(committed[0]);
      throw refused(
        root,
        `${path} is missing, the directory of a committed snapshot: is a disk not mounted? Otherwise remove the store and unpack anew`,
      );
    }
    for (const [id] of lost) forget(id);
  });
}

function refused(root: string, why: string, cause?: unknown): UnpackError {
  const code = toUnpackError(cause).code === 'STORE_FULL' ? 'STORE_FULL' : 'STORE_FAILED';
  return new UnpackError(code, `${root} can't be used as the snapshot store: ${why}`, { cause });
}

function throwGone(root: string, error: unknown): never {
  throw toUnpackError(error).code === 'INTERNAL' ? storeGone(root, error) : refused(root, reason(error), error);
}

function reason(error: unknown): string {
  const failure = toUnpackError(error);
  if (failure.code !== 'INTERNAL') return failure.message;
  return error instanceof Error ? error.message : String(error);
}
