import {
  closeSync,
  fsync,
  openSync,
  readFileSync,
  readlinkSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { errnoOf } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { close, cString, O, openAt } from '../system/files.ts';
import type { Claim, SnapshotInfo, SnapshotKind, Usage } from './snapshotter.ts';
import { hasVanished, settle, syncDirectory, undefinedIfVanished } from './tree.ts';

/**
 * What is kept in the directory of a snapshot beside its files, so that the database can be rebuilt:
 *
 *     store             a symbolic link whose target is the identity of the store. A link, because its target is in the inode,
 *                       so that the sync of the directory, which each new snapshot needs, includes it
 *     committed.json    the record of a committed snapshot. On disk before the row says that it is committed
 *     active.json       the record of a snapshot that is or was active; not synced
 *     view.json         the same of a view
 */
export interface SnapshotRecord extends Pick<SnapshotInfo, 'kind' | 'name' | 'parent' | 'labels' | 'size'> {
  /** Milliseconds since 1970. */
  readonly created: number;
  /** Of a committed snapshot: whether its files are known to be on disk. Versions without this field did not record it. */
  readonly synced?: boolean;
  readonly claim?: Claim | undefined;
}

// writing a few bytes on this thread is faster than on another; only the sync waits for the disk
const syncFile = promisify(fsync);

const LINK = 'store';
const KINDS: readonly SnapshotKind[] = ['committed', 'active', 'view'];

const recordFile = (directory: string, kind: SnapshotKind): string => join(directory, `${kind}.json`);

export function recordOf({ kind, name, parent, labels, created, size, claim }: SnapshotInfo): SnapshotRecord {
  return { kind, name, parent, labels, created: created.getTime(), ...(size === undefined ? {} : { size }), claim };
}

/** Marks a new directory as one of this store, and adds its record. Only the link is needed after a loss of power. */
export function markNew(directory: string, identity: string, record: SnapshotRecord): void {
  symlinkSync(identity, join(directory, LINK));
  writeFileSync(recordFile(directory, record.kind), JSON.stringify(record), { mode: 0o600 });
}

/** Marks a directory that an earlier version of unpackd made, and adds its record. Nothing is synced. */
export function adopt(directory: string, identity: string, record: SnapshotRecord): void {
  if (ownerOf(directory) === undefined) symlinkSync(identity, join(directory, LINK));
  writeFileSync(recordFile(directory, record.kind), JSON.stringify(record), { mode: 0o600 });
}

/** The identity of the store that a directory belongs to; `undefined` without a mark. @throws system errors */
export function ownerOf(directory: string): string | undefined {
  try {
    return readlinkSync(join(directory, LINK));
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'EINVAL' || errno === 'ENOTDIR') return undefined;
    throw error;
  }
}

/** Replaces the record of a snapshot in one step. @param sync also syncs the record and its name */
export async function writeRecord(directory: string, record: SnapshotRecord, sync: boolean): Promise<void> {
  const path = recordFile(directory, record.kind);
  const next = `${path}.next`;
  const file = openSync(next, 'w', 0o600);
  try {
    writeFileSync(file, JSON.stringify(record));
    renameSync(next, path);
    if (sync) await settle([syncFile(file), syncDirectory(directory)]);
  } finally {
    closeSync(file);
  }
}

export async function removeRecord(directory: string, kind: SnapshotKind): Promise<void> {
  await unlink(recordFile(directory, kind)).catch(undefinedIfVanished);
}

/** The record of one kind; `undefined` if there is none or it is damaged. @throws system errors */
export function readRecord(directory: string, kind: SnapshotKind): SnapshotRecord | undefined {
  let text: string;
  try {
    text = readFileSync(recordFile(directory, kind), 'utf8');
  } catch (error) {
    if (hasVanished(error)) return undefined;
    throw error;
  }
  try {
    const record: Partial<Record<keyof SnapshotRecord, unknown>> = JSON.parse(text);
    const { name, parent, labels, created, size, synced, claim } = record;
    if (typeof name !== 'string' || typeof parent !== 'string' || typeof created !== 'number') return undefined;
    if (typeof labels !== 'object' || labels === null) return undefined;
    const texts = Object.entries(labels).filter((label): label is [string, string] => typeof label[1] === 'string');
    return {
      kind,
      name,
      parent,
      labels: Object.fromEntries(texts),
      created,
      ...(isUsage(size) ? { size } : {}),
      ...(typeof synced === 'boolean' ? { synced } : {}),
      ...(claim === 'made' || claim === 'adopted' ? { claim } : {}),
    };
  } catch {
    return undefined;
  }
}

function isUsage(value: unknown): value is Usage {
  if (typeof value !== 'object' || value === null) return false;
  const { bytes, inodes }: Partial<Record<keyof Usage, unknown>> = value;
  return Number.isSafeInteger(bytes) && Number.isSafeInteger(inodes);
}

/**
 * Checks that an open directory is the tree of the active snapshot `key`. A disk that is mounted over the store can have
 * another tree at the same path.
 * @param tree a descriptor of ID/fs
 * @throws UnpackError STORE_FAILED if it is not; system errors
 */
export function requireTreeOf(key: string, tree: number): void {
  if (inDirectoryOf(tree, (directory) => readRecord(directory, 'active')?.name) !== key) throw replacedTree();
}

/** Checks that two open trees are of one store. @throws as `requireTreeOf` */
export function requireSameOwner(tree: number, other: number): void {
  const [owner, its] = [tree, other].map((each) => inDirectoryOf(each, ownerOf));
  if (owner !== its) throw replacedTree();
}

/** Calls `look` with the directory ID of an open ID/fs, through a descriptor: other paths may lead to another disk. */
function inDirectoryOf<T>(tree: number, look: (directory: string) => T): T {
  const directory = openAt(tree, cString('..'), O.PATH | O.DIRECTORY);
  try {
    return look(`/proc/self/fd/${directory}`);
  } finally {
    close(directory);
  }
}

function replacedTree(): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    'it is not the directory that was prepared: a disk was mounted over the store, or somebody replaced it; put the first one back, or restart unpackd to use the new one',
  );
}

/** The record of the last state that the snapshot had. */
export function lastRecord(directory: string): SnapshotRecord | undefined {
  for (const kind of KINDS) {
    const record = readRecord(directory, kind);
    if (record !== undefined) return record;
  }
  return undefined;
}
