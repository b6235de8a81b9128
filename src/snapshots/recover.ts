import { chmodSync, closeSync, constants, existsSync, fsyncSync, openSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { backup, DatabaseSync } from 'node:sqlite';
import { UnpackError } from '../errors.ts';
import { tryLock } from '../system/files.ts';
import { databaseIdentity, lastNumber, markBroken, setLastNumber } from './admission.ts';
import { isDamage } from './database.ts';
import { snapshotsDirectory } from './directories.ts';
import { metadataFile, numberedDirectories, readStoreRecord, type StoreRecord, writeStoreRecord } from './identity.ts';
import { lastRecord, ownerOf, type SnapshotRecord } from './records.ts';
import { IDENTITY_VERSION, readTraits, recordTraits, refuseOthers, schemaVersion, upgradeSchema } from './schema.ts';
import { number, STATEMENTS } from './statements.ts';
import { syncDirectoryNow } from './tree.ts';

/** Copies the database of a store and rebuilds it, for `unpackd snapshots backup` and `unpackd snapshots recover`. */

export interface Recovered {
  /** Snapshots in the new database that can be used, and those whose directory or parent is missing. */
  readonly whole: number;
  readonly broken: number;
  /** Numbers of directories in ROOT/snapshots that are not of this store. They stay. */
  readonly foreign: readonly number[];
  /**
   * Images that are still recorded; `undefined` if no database had them. The directories have no references, documents and
   * pins, so these are lost with the database.
   */
  readonly images: number | undefined;
  /** Where the earlier database is now; `undefined` if there was none. */
  readonly earlier: string | undefined;
}

/**
 * Rebuilds the database from the records in ROOT/snapshots. An existing database of the same store is the start, so what only
 * the database has stays, unless the database is damaged. Nothing in the directories of snapshots changes.
 * @throws UnpackError STORE_FAILED if a process has the store open, there is no identity, or the database is another program's
 *   or of a newer version; system errors, SQLite's errors
 */
export async function recoverStore(root: string): Promise<Recovered> {
  const directory = snapshotsDirectory(root);
  const lock = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  const next = `${metadataFile(root)}.recovered`;
  try {
    if (!tryLock(lock)) {
      throw new UnpackError(
        'STORE_FAILED',
        `${directory} is in use: stop the workers and commands that use the store first`,
      );
    }
    for (const path of [next, `${next}-journal`]) rmSync(path, { force: true });
    const record = soundStoreRecord(root) ?? (await fromDatabase(root));
    if (record === undefined) {
      throw new UnpackError(
        'STORE_FAILED',
        `${directory} has no store.json that can be read, which has the identity of the store: put it back from a copy`,
      );
    }
    await copyOwn(root, next, record);
    const file = new DatabaseSync(next, { enableForeignKeyConstraints: false });
    let found: Omit<Recovered, 'earlier'>;
    try {
      file.exec('PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; BEGIN');
      found = rebuild(file, root, record);
      file.exec('COMMIT');
    } finally {
      file.close();
    }
    return { ...found, earlier: putInPlace(root, next, record) };
  } finally {
    closeSync(lock);
  }
}

/** The content of store.json; `undefined` if it is lost or damaged. @throws system errors */
function soundStoreRecord(root: string): StoreRecord | undefined {
  try {
    return readStoreRecord(root);
  } catch (error) {
    if (error instanceof UnpackError) return undefined;
    throw error;
  }
}

/** What a lost store.json had, if the database is sound and a directory has its identity. */
function fromDatabase(root: string): Promise<StoreRecord | undefined> {
  return ifSound(root, (file) => {
    const known = databaseIdentity(file);
    const fits = numberedDirectories(root).some((id) => ownerOf(directoryOf(root, id)) === known.identity);
    return fits ? { ...known, ...readTraits(file) } : undefined;
  });
}

const directoryOf = (root: string, id: number): string => join(snapshotsDirectory(root), String(id));

/** Copies the existing database, if it is sound and one of this store; otherwise the new one begins empty. */
async function copyOwn(root: string, next: string, { identity }: StoreRecord): Promise<void> {
  await ifSound(root, async (file) => {
    if (databaseIdentity(file).identity === identity) await backup(file, next);
  });
}

/**
 * Calls `use` with the existing database.
 * @returns `undefined` if the database is missing or damaged, or has no identity
 * @throws UnpackError STORE_FAILED for another program's database and for a newer version; SQLite's errors
 */
async function ifSound<T>(root: string, use: (file: DatabaseSync) => Promise<T> | T): Promise<T | undefined> {
  const path = metadataFile(root);
  if (!existsSync(path)) return undefined;
  const file = new DatabaseSync(path);
  try {
    refuseOthers(file, path);
    if (schemaVersion(file, path) < IDENTITY_VERSION) return undefined;
    // a copy would have the damage too, even in pages that are not needed now
    if (file.prepare('PRAGMA integrity_check').get()?.integrity_check !== 'ok') return undefined;
    return await use(file);
  } catch (error) {
    if (isDamage(error)) return undefined;
    throw error;
  } finally {
    file.close();
  }
}

function rebuild(file: DatabaseSync, root: string, record: StoreRecord): Omit<Recovered, 'earlier'> {
  const pathOf = (id: number) => directoryOf(root, id);
  const version = schemaVersion(file, metadataFile(root));
  upgradeSchema(file, version);
  if (version === 0) recordTraits(file, record);
  const numbers = numberedDirectories(root).sort((one, other) => one - other);
  const foreign = numbers.filter((id) => ownerOf(pathOf(id)) !== record.identity);
  const own = numbers.filter((id) => !foreign.includes(id));
  const parents = addRows(
    file,
    own.map((id) => [id, lastRecord(pathOf(id)) ?? unreadable(id)]),
  );
  // no number is given again, not even that of a foreign directory
  setLastNumber(file, Math.max(lastNumber(file), ...numbers));
  setParents(file, parents);
  markBroken(file, record.identity, pathOf);
  const openings = Math.max(databaseIdentity(file).openings, record.openings) + 1;
  file.prepare('UPDATE store SET identity = ?, openings = ?').run(record.identity, openings);
  const count = (which: string) =>
    number(file.prepare(`SELECT COUNT(*) AS count FROM snapshots WHERE ${which}`).get()?.count);
  const recorded = number(file.prepare('SELECT COUNT(*) AS count FROM images').get()?.count);
  const images = version === 0 ? undefined : recorded;
  return { whole: count('broken IS NULL'), broken: count('broken IS NOT NULL'), foreign, images };
}

/** A directory of this store whose record a loss of power took: only its files are known. */
function unreadable(id: number): SnapshotRecord {
  return { kind: 'active', name: `recovered-${id}`, parent: '', labels: {}, created: Date.now() };
}

/**
 * Makes the row of each directory say what its record says. If two have the same name, the first keeps it.
 * @returns the names of the parents, by number
 */
function addRows(file: DatabaseSync, records: readonly (readonly [number, SnapshotRecord])[]): Map<number, string> {
  const parents = new Map<number, string>();
  const taken = file.prepare('SELECT id FROM snapshots WHERE key = ? AND id <> ?');
  const there = file.prepare('SELECT key, kind FROM snapshots WHERE id = ?');
  const remove = file.prepare('DELETE FROM snapshots WHERE id = ?');
  const insert = file.prepare(`
    INSERT INTO snapshots (id, key, kind, labels, claim, created, updated, bytes, inodes, synced)
    VALUES (:id, :key, :kind, :labels, :claim, :created, :created, :bytes, :inodes, :synced)`);
  const markSynced = file.prepare(STATEMENTS.markSynced);
  const addClaim = file.prepare('UPDATE snapshots SET claim = COALESCE(claim, :claim) WHERE id = :id');
  const adopt = file.prepare(STATEMENTS.adoptChildren);
  const present = new Set(records.map(([id]) => id));
  for (const [id, { kind, name, parent, labels, created, size, synced, claim }] of records) {
    const row = there.get(id);
    if (row?.key === name && row.kind === kind) {
      if (synced === true) markSynced.run({ id }); // after this copy of the database was made
      // a claim too much ends with the next collection of containerd
      if (claim !== undefined) addClaim.run({ id, claim });
      continue;
    }
    const other = taken.get(name, id);
    if (other !== undefined) {
      if (present.has(number(other.id))) continue;
      // its directory is gone, and this one has the same content
      adopt.run({ id, broken: number(other.id) });
      remove.run(number(other.id));
    }
    remove.run(id);
    const { bytes = null, inodes = null } = size ?? {};
    insert.run({
      id,
      key: name,
      kind,
      labels: JSON.stringify(labels),
      claim: claim ?? null,
      created,
      bytes,
      inodes,
      synced: synced === undefined ? null : Number(synced),
    });
    parents.set(id, parent);
  }
  return parents;
}

/** Sets the parents of new rows. A parent without a directory gets a row, which is broken until a job unpacks it again. */
function setParents(file: DatabaseSync, parents: ReadonlyMap<number, string>): void {
  const find = file.prepare('SELECT id FROM snapshots WHERE key = ?');
  const set = file.prepare('UPDATE snapshots SET parent = ? WHERE id = ?');
  const add = file.prepare(`
    INSERT INTO snapshots (key, kind, labels, created, updated) VALUES (?, 'committed', '{}', ?, ?)`);
  for (const [id, parent] of parents) {
    if (parent === '') continue;
    if (find.get(parent) === undefined) add.run(parent, Date.now(), Date.now());
    set.run(number(find.get(parent)?.id), id);
  }
}

/** @returns where the earlier database is now */
function putInPlace(root: string, next: string, record: StoreRecord): string | undefined {
  const path = metadataFile(root);
  chmodSync(next, 0o600);
  const earlier = existsSync(path) ? `${path}.before-recover-${Date.now()}` : undefined;
  // the log belongs to the file that it lies beside
  for (const end of ['', '-wal', '-shm']) {
    if (earlier !== undefined && existsSync(`${path}${end}`)) renameSync(`${path}${end}`, `${earlier}${end}`);
    else rmSync(`${path}${end}`, { force: true });
  }
  renameSync(next, path);
  syncDirectoryNow(root);
  const file = new DatabaseSync(path);
  try {
    writeStoreRecord(root, { ...record, ...databaseIdentity(file) });
  } finally {
    file.close();
  }
  return earlier;
}

/**
 * Copies the database into a new file, while other processes use the store.
 * @throws UnpackError STORE_FAILED if there is no store, or the file exists; system errors, SQLite's errors
 */
export async function backUpDatabase(root: string, to: string): Promise<void> {
  const path = metadataFile(root);
  if (!existsSync(path)) throw new UnpackError('STORE_FAILED', `${root} has no store: name it with --root`);
  if (existsSync(to)) throw new UnpackError('STORE_FAILED', `${to} exists already: name a new file for the copy`);
  const file = new DatabaseSync(path, { readOnly: true, timeout: 10_000 });
  try {
    refuseOthers(file, path);
    await backup(file, to);
  } finally {
    file.close();
  }
  chmodSync(to, 0o600);
  const copy = openSync(to, 'r');
  try {
    fsyncSync(copy);
  } finally {
    closeSync(copy);
  }
}
