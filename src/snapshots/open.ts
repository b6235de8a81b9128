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
  /** A directory for the store alone; it is made if need be. */
  readonly root: string;
  readonly type: Snapshotter['type'];
  /**
   * For who writes layers: what becomes of their owners, the same in all layers of a store. Default: as the store has it,
   * and a new one keeps them.
   */
  readonly ownership?: Ownership;
  /** Whether it was open before: none is made then where there is none, since its disk may not be mounted any more. */
  readonly again?: boolean;
  /** How long a call waits for other processes that change the store, in milliseconds; default 10 s. */
  readonly lockTimeout?: number;
}

/** The file that the metadata of a store at `root` are in. */
export const metadataFile = (root: string): string => join(root, 'metadata.db');

/**
 * Opens the snapshot store at `root`, or makes one there. Any number of processes and threads may have it open.
 * @throws UnpackError STORE_FAILED when the directory can't be used, holds something else, or the other type of store, or
 *   when owners are to be kept and this process can't; STORE_FULL
 */
export async function openSnapshotter(options: StoreOptions): Promise<Snapshotter> {
  const root = resolve(options.root);
  // mount(8) and overlayfs take these apart, and not every program that reads a mount's options knows how to quote them
  const awkward = /[:,\\"\n]/.exec(root);
  if (awkward !== null)
    throw refused(root, `its name has ${JSON.stringify(awkward[0])}, which no mount option can hold`);
  if (options.ownership === 'keep') requireOwners();
  if (options.again === true) await access(metadataFile(root)).catch((error: unknown) => throwGone(root, error));
  // 0700: the files of an image, set-user-ID programs too, are nobody else's business
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
    const patience = { path: metadataFile(root), limit: options.lockTimeout ?? LOCK_TIMEOUT };
    metadata = await Metadata.open(patience, { type, ownership, overlayXattrs });
    const layout = await layoutOf(metadata.made);
    await forgetLost(metadata, directories, root);
    return new SnapshotStore(root, layout, metadata, directories);
  } catch (error) {
    await directories.close(CLOSE_LIMIT);
    metadata?.close();
    throw error instanceof UnpackError ? error : refused(root, reason(error), error);
  }
}

/** As `mkdir -p`. Node's own, asked for that, says ENOENT where the file system is read-only. */
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

/** A worker that is not root must be told so: what it unpacks is not what the image says. */
function requireOwners(): void {
  const { user, cannotKeepOwners } = privileges();
  if (cannotKeepOwners === undefined) return;
  throw new UnpackError(
    'STORE_FAILED',
    `${user} can't give files to the owners that images name (${cannotKeepOwners}): run as root, or set UNPACK_OWNERSHIP=squash, with which every file belongs to the user who unpacks it and devices are left out`,
  );
}

async function requireNative(): Promise<OverlayXattrs> {
  await requireExactCopier();
  return 'trusted';
}

/** What overlayfs needs of the file system; returns where it can keep its marks. */
async function requireOverlay(root: string, directories: SnapshotDirectories): Promise<OverlayXattrs> {
  // tried out in a directory that a cleanup takes away if this process dies halfway
  const staged = await directories.stage();
  const facts = await fileSystemFacts(staged.path).finally(() => directories.release(staged));
  if (!facts.directoryTypes) {
    throw refused(
      root,
      `its file system (${facts.type}) doesn't say what type names have, and overlayfs needs that (XFS: ftype=1)`,
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
    throw refused(root, "this user can't make the character device 0:0 there, by which overlayfs deletes (Linux 5.8)");
  }
  // What overlayfs itself goes by: trusted.* is for the administrator of the whole machine, not of a user namespace.
  return facts.trustedXattrs ? 'trusted' : 'user';
}

async function layoutOf({ type, overlayXattrs }: Traits): Promise<Layout> {
  if (type === 'native') return nativeLayout;
  return overlayLayout({ overlayXattrs, index: await overlayKnowsIndex() });
}

/**
 * A row without a directory can only come from a loss of power (a directory's name is flushed at the commit of its
 * snapshot, not before). What was active then has nothing to lose. For a committed one something else has happened, and
 * guessing could cost every image.
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
        `${path} is missing, which a committed snapshot owns: is a disk not mounted? Otherwise remove the store and unpack anew`,
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
