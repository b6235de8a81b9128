import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { access, chmod, open as openFile, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { errnoOf } from '../errno.ts';
import { toUnpackError, UnpackError } from '../errors.ts';
import { fileSystemFacts } from '../system/filesystem.ts';
import { makeDirectories } from '../system/make-directories.ts';
import { privileges } from '../system/privileges.ts';
import { databaseIdentity } from './admission.ts';
import { requireExactCopier } from './copy-tree.ts';
import { LOCK_TIMEOUT } from './database.ts';
import { Deletions } from './deletions.ts';
import { SnapshotDirectories, snapshotsDirectory, storeGone } from './directories.ts';
import {
  metadataFile,
  numberedDirectories,
  OpenedStore,
  readStoreRecord,
  refuseWithoutDatabase,
  requireSameStore,
} from './identity.ts';
import { mountOf } from './later-sync.ts';
import { layoutOf } from './layout.ts';
import { type Demand, Metadata } from './metadata.ts';
import { hasContent, openReadOnly } from './read-only.ts';
import { keepReserve, withReserve } from './reserve.ts';
import { IDENTITY_VERSION, refuseOthers, schemaVersion } from './schema.ts';
import { SnapshotStore } from './snapshot-store.ts';
import type { OverlayXattrs, Ownership, Snapshotter } from './snapshotter.ts';
import { CLOSE_LIMIT, type OwnStore, type StoreReader } from './store.ts';
import { Transactions } from './transactions.ts';
import { undefinedIfVanished } from './tree.ts';

export interface StoreOptions {
  /** The store's own directory. It is made if it is missing. */
  readonly root: string;
  readonly type: Snapshotter['type'];
  /**
   * What to do with the owners of files. Only needed to write layers. All layers of a store must be the same. Default: what
   * the store was made with; `keep` for a new store.
   */
  readonly ownership?: Ownership;
  /**
   * Whether all files of a snapshot must be on disk before this process uses the snapshot. Default: true. Otherwise it also
   * uses what was written, and not synced, through the mount that it uses.
   */
  readonly durable?: boolean;
  /** A random ID, the same for all parts of the process that open the store together. Default: a new one. See `mountOf`. */
  readonly session?: string;
  /** The store was open before. If it has disappeared, its disk may not be mounted, and no new store is made. */
  readonly again?: boolean;
  /** Opens and removes on a full disk with the space of the reserve. For commands that make room. */
  readonly mayUseReserve?: boolean;
  /** How long a call waits for other processes that change the store, in milliseconds; default 10 s. */
  readonly lockTimeout?: number;
}

/**
 * Opens the snapshot store at `root`, or makes one. Any number of processes and threads may have it open.
 * @throws UnpackError STORE_FAILED if the directory cannot be used, or holds other data or the other type of store, or if
 *   `ownership` is `keep` and this process cannot keep owners; STORE_FULL
 */
export async function openSnapshotter(options: StoreOptions): Promise<OwnStore> {
  const root = resolve(options.root);
  // separators in mount options; not every program that reads mount options can quote them
  const separator = /[:,\\"\n]/.exec(root);
  if (separator !== null)
    throw refused(root, `its name has ${JSON.stringify(separator[0])}, which no mount option can hold`);
  if (options.ownership === 'keep') requireOwners();
  if (options.again === true) await access(metadataFile(root)).catch((error: unknown) => throwGone(root, error));
  await makePlace(root).catch((error: unknown) => {
    throw error instanceof UnpackError ? error : refused(root, reason(error), error);
  });
  const store = await withReserve(root, options.mayUseReserve === true, () => openIn(root, options));
  await keepReserve(root);
  return store;
}

/**
 * Opens the store at `root` to read it: nothing is written or created, and no process is waited for. Only the methods that do
 * not change the store work.
 * @throws UnpackError STORE_FAILED if there is no store, or it cannot be used
 */
export async function openToRead(options: Pick<StoreOptions, 'root' | 'type'>): Promise<StoreReader> {
  const root = resolve(options.root);
  try {
    return await readIn(root, options.type);
  } catch (error) {
    if (error instanceof UnpackError) throw error;
    const denied = errnoOf(error) === 'EACCES';
    throw refused(
      root,
      denied ? 'this user may not read it; run the command as its owner or as root' : reason(error),
      error,
    );
  }
}

async function readIn(root: string, type: StoreOptions['type']): Promise<StoreReader> {
  const numbers = numberedDirectories(root);
  if (!hasContent(metadataFile(root))) {
    refuseWithoutDatabase(root, numbers);
    throw new UnpackError('STORE_FAILED', `${root} has no snapshot store: name another directory, or start a worker`);
  }
  const opened = new OpenedStore(root);
  try {
    const transactions = await Transactions.openReadOnly(opened, LOCK_TIMEOUT, type);
    const deletions = new Deletions(root);
    const directories = new SnapshotDirectories(root, opened.descriptor, deletions);
    const layout = await layoutOf(transactions.made);
    const metadata = new Metadata(transactions, demandOf(opened, { durable: false }));
    return new SnapshotStore(root, layout, metadata, transactions, directories, deletions);
  } catch (error) {
    opened.close();
    throw error;
  }
}

/**
 * Makes the directories of a new store. For an existing one, checks that the database and ROOT/snapshots belong together,
 * before anything is written there. An existing store without its ROOT/snapshots does not get a new one.
 * @throws UnpackError STORE_FAILED if they do not; system errors
 */
async function makePlace(root: string): Promise<void> {
  const path = metadataFile(root);
  // The directories are listed first: another process that makes this store adds a snapshot after the database.
  const numbers = numberedDirectories(root);
  if (!hasContent(path)) {
    refuseWithoutDatabase(root, numbers);
    // 0700: other users must not reach the files of an image, such as set-user-ID programs
    await makeDirectories(snapshotsDirectory(root), 0o700);
    // SQLite would give it a mode that other users can read
    return (await openFile(path, 'a', 0o600)).close();
  }
  if (!(await fitsDirectories(root))) await makeDirectories(snapshotsDirectory(root), 0o700);
}

/**
 * @returns whether the database is one of a store; `false`: it is damaged, new or of another program, which openIn reports
 * @throws UnpackError STORE_FAILED if ROOT/snapshots is missing, or does not belong to the database
 */
async function fitsDirectories(root: string): Promise<boolean> {
  const path = metadataFile(root);
  const database = await openReadOnly(path).catch(() => undefined);
  if (database === undefined) return false;
  try {
    const { file } = database;
    refuseOthers(file, path);
    const version = schemaVersion(file, path);
    if (version === 0) return false;
    if (!existsSync(snapshotsDirectory(root))) throw storeGone(snapshotsDirectory(root), undefined);
    // The file is read first, because another process that opens the store counts in the database first.
    const record = readStoreRecord(root);
    if (version >= IDENTITY_VERSION) requireSameStore(root, databaseIdentity(file), record);
    return true;
  } catch (error) {
    if (error instanceof UnpackError) throw error;
    return false;
  } finally {
    database.file.close();
    database.dispose();
  }
}

async function openIn(root: string, options: StoreOptions): Promise<OwnStore> {
  const opened = new OpenedStore(root);
  const deletions = new Deletions(root);
  const directories = new SnapshotDirectories(root, opened.descriptor, deletions);
  let transactions: Transactions | undefined;
  try {
    const database = metadataFile(root);
    const files = [database, `${database}-wal`, `${database}-shm`];
    for (const path of [root, snapshotsDirectory(root), ...files]) await protect(path, root);
    const { type, ownership } = options;
    const overlayXattrs = await (type === 'overlay' ? requireOverlay(root, directories) : requireNative());
    const lockTimeout = options.lockTimeout ?? LOCK_TIMEOUT;
    const wanted = { type, ownership, overlayXattrs };
    transactions = await Transactions.open(opened, lockTimeout, wanted, (id) => directories.own(id));
    const metadata = new Metadata(transactions, demandOf(opened, options));
    const layout = await layoutOf(transactions.made);
    return new SnapshotStore(root, layout, metadata, transactions, directories, deletions, options.mayUseReserve);
  } catch (error) {
    await deletions.close(CLOSE_LIMIT);
    if (transactions === undefined) opened.close();
    else transactions.close();
    throw error instanceof UnpackError ? error : refused(root, reason(error), error);
  }
}

/** Which snapshots this process may use. */
function demandOf(
  { descriptor }: OpenedStore,
  { durable = true, session = randomUUID() }: Pick<StoreOptions, 'durable' | 'session'>,
): Demand {
  return { durable, mount: mountOf(descriptor, session) };
}

/**
 * Takes permissions away that an existing file or directory gives to other users: in ROOT the right to replace names, in all
 * others every right, because an image may have set-user-ID programs.
 * @throws UnpackError STORE_FAILED if they must go and this user cannot change them
 */
async function protect(path: string, root: string): Promise<void> {
  const status = await stat(path).catch(undefinedIfVanished);
  if (status === undefined) return;
  // with the sticky bit (/tmp), only the owner of a name can replace it
  const sticky = (status.mode & 0o1000) !== 0;
  const surplus = status.mode & (path !== root ? 0o077 : sticky ? 0 : 0o022);
  if (surplus === 0) return;
  await chmod(path, status.mode & 0o7777 & ~surplus).catch((error: unknown) => {
    throw refused(root, `other users may change or read ${path} (chmod go= ${path} as its owner)`, error);
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
