import { randomBytes } from 'node:crypto';
import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { UnpackError } from '../errors.ts';
import { tryLockShared } from '../system/files.ts';
import { isNumber, isSame, snapshotsDirectory, storeGone } from './directories.ts';
import type { Traits } from './schema.ts';
import { hasVanished, syncDirectoryNow } from './tree.ts';

/**
 * The identity of a store: a random ID in the database, in ROOT/snapshots/store.json, and in a link in the directory of each
 * snapshot. It detects a database and directories that do not belong together, such as after a disk was mounted late.
 */

/** The content of ROOT/snapshots/store.json. `recover` needs the traits. */
export interface StoreRecord extends Traits {
  readonly identity: string;
  /**
   * How many times the store was opened for changes, as far as this file knows. The database counts first. So a database
   * that has counted less than this file is an older copy.
   */
  readonly openings: number;
}

const FILE = 'store.json';
const BIG = { bigint: true } as const;
const BIG_OR_NONE = { bigint: true, throwIfNoEntry: false } as const;

export const newIdentity = (): string => randomBytes(16).toString('hex');

/** The path of the database file of the store at `root`. */
export const metadataFile = (root: string): string => join(root, 'metadata.db');

/** @returns `undefined` if there is no such file @throws UnpackError STORE_FAILED if it is damaged; system errors */
export function readStoreRecord(root: string): StoreRecord | undefined {
  const path = join(snapshotsDirectory(root), FILE);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (hasVanished(error)) return undefined;
    throw error;
  }
  const record = parse(text);
  if (record === undefined) throw new UnpackError('STORE_FAILED', `${path} is damaged: ${RECOVER}`);
  return record;
}

function parse(text: string): StoreRecord | undefined {
  try {
    const { identity, openings, type, ownership, overlayXattrs }: Partial<Record<keyof StoreRecord, unknown>> =
      JSON.parse(text);
    if (typeof identity !== 'string' || !/^[0-9a-f]{32}$/.test(identity) || typeof openings !== 'number')
      return undefined;
    if (type !== 'overlay' && type !== 'native') return undefined;
    if (ownership !== 'keep' && ownership !== 'squash') return undefined;
    if (overlayXattrs !== 'trusted' && overlayXattrs !== 'user') return undefined;
    return { identity, openings, type, ownership, overlayXattrs };
  } catch {
    return undefined;
  }
}

/** Replaces the file in one step, and syncs it. Call it while the write lock of the database is held. */
export function writeStoreRecord(root: string, record: StoreRecord): void {
  const directory = snapshotsDirectory(root);
  const next = join(directory, `${FILE}.next`);
  const descriptor = openSync(next, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600);
  try {
    writeSync(descriptor, `${JSON.stringify(record)}\n`);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(next, join(directory, FILE));
  syncDirectoryNow(directory);
}

/** What to do if the database does not fit its directories. Part of messages. */
export const RECOVER =
  'stop the workers and put the right one back, or run unpackd snapshots recover, which rebuilds the database from the directories';

/**
 * For a store whose database is missing or new.
 * @param numbers of the directories in ROOT/snapshots
 * @throws UnpackError STORE_FAILED if ROOT/snapshots holds snapshots
 */
export function refuseWithoutDatabase(root: string, numbers: readonly number[] = numberedDirectories(root)): void {
  if (numbers.length === 0) return;
  throw new UnpackError(
    'STORE_FAILED',
    `${snapshotsDirectory(root)} holds snapshots, but ${metadataFile(root)} is missing or empty: ${RECOVER}`,
  );
}

/** The numbers of the directories in ROOT/snapshots. */
export function numberedDirectories(root: string): number[] {
  try {
    return readdirSync(snapshotsDirectory(root)).filter(isNumber).map(Number);
  } catch (error) {
    if (hasVanished(error)) return [];
    throw error;
  }
}

/** The database and its counter, as a transaction reads them. */
export interface DatabaseIdentity {
  readonly identity: string;
  readonly openings: number;
}

/** @throws UnpackError STORE_FAILED if ROOT/snapshots belongs to another store, or to a newer state of this one */
export function requireSameStore(root: string, database: DatabaseIdentity, file: StoreRecord | undefined): void {
  const directory = snapshotsDirectory(root);
  if (file?.identity !== database.identity) {
    throw new UnpackError(
      'STORE_FAILED',
      `${metadataFile(root)} and ${directory} do not belong together (${file === undefined ? `${FILE} is missing there` : 'they are of different stores'}): ${RECOVER}`,
    );
  }
  if (file.openings > database.openings) throw olderDatabase(root);
}

export function olderDatabase(root: string): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `${metadataFile(root)} is an older copy: ${snapshotsDirectory(root)} has changed since it was made: ${RECOVER}`,
  );
}

/**
 * The store as this process opened it: an open descriptor of ROOT/snapshots, and the file of the database. Device and inode
 * numbers are only compared with those of the same process, because device numbers change at a restart of the machine.
 *
 * Measured: `check` makes three system calls (stat) and takes 9 µs.
 */
export class OpenedStore {
  readonly root: string;
  /** A descriptor of ROOT/snapshots. It has a shared lock, which keeps `recover` away. */
  readonly descriptor: number;
  readonly #directory: BigIntStats;
  #database: BigIntStats | undefined;
  #identity: string | undefined;
  /** The identity file when it was read last. */
  #file: BigIntStats | undefined;

  /** @throws UnpackError STORE_FAILED if ROOT/snapshots is missing; system errors */
  constructor(root: string) {
    this.root = root;
    try {
      this.descriptor = openSync(snapshotsDirectory(root), constants.O_RDONLY | constants.O_DIRECTORY);
    } catch (error) {
      if (hasVanished(error)) throw storeGone(snapshotsDirectory(root), error);
      throw error;
    }
    if (!tryLockShared(this.descriptor)) {
      closeSync(this.descriptor);
      throw new UnpackError(
        'STORE_FAILED',
        `unpackd snapshots recover works on the store ${root}: wait until it has ended`,
      );
    }
    this.#directory = fstatSync(this.descriptor, BIG);
  }

  /** Remembers the database that this process has open. Call it right after opening the file. */
  bind(): void {
    this.#database = statSync(metadataFile(this.root), BIG);
  }

  /** Sets the identity that the database has. */
  expect(identity: string): void {
    this.#identity = identity;
    this.#file = undefined;
  }

  /**
   * Checks that the paths still lead to the directory and the database that this process opened, and that the directory has
   * the identity of the database. Call it inside each transaction.
   * @throws UnpackError STORE_FAILED
   */
  check(): void {
    const directory = snapshotsDirectory(this.root);
    const now = statSync(directory, BIG_OR_NONE);
    if (now === undefined) throw storeGone(directory, undefined);
    if (!isSame(now, this.#directory)) throw replaced(directory);
    const path = metadataFile(this.root);
    const database = statSync(path, BIG_OR_NONE);
    if (database === undefined) throw storeGone(path, undefined);
    if (this.#database !== undefined && !isSame(database, this.#database)) throw replaced(path);
    if (this.#identity === undefined) return;
    const file = statSync(join(directory, FILE), BIG_OR_NONE);
    const known = this.#file;
    if (file !== undefined && known !== undefined && isSame(file, known) && file.ctimeNs === known.ctimeNs) return;
    const record = readStoreRecord(this.root);
    requireSameStore(this.root, { identity: this.#identity, openings: Number.POSITIVE_INFINITY }, record);
    this.#file = file;
  }

  /** The error for a database whose content was replaced while it was open. */
  replacedDatabase(): UnpackError {
    return replaced(metadataFile(this.root));
  }

  close(): void {
    closeSync(this.descriptor);
  }
}

function replaced(path: string): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `${path} is not the one that this process opened: a disk was mounted there, or somebody replaced it; put the first one back, or restart unpackd to use the new one`,
  );
}
