import { existsSync } from 'node:fs';
import type { DatabaseSync } from 'node:sqlite';
import { syncFileSystemNow } from '../system/files.ts';
import { entry } from './entries.ts';
import {
  type DatabaseIdentity,
  metadataFile,
  newIdentity,
  numberedDirectories,
  type OpenedStore,
  olderDatabase,
  readStoreRecord,
  refuseWithoutDatabase,
  requireSameStore,
  writeStoreRecord,
} from './identity.ts';
import { adopt, ownerOf, readRecord, recordOf } from './records.ts';
import { checkTraits, recordTraits, schemaVersion, type Traits, upgradeSchema, type WantedTraits } from './schema.ts';
import type { BrokenReason, SnapshotKind } from './snapshotter.ts';
import { brokenReason, kind, number, STATEMENTS, text } from './statements.ts';

/** Decides, in the first transaction of a process, whether the database and ROOT/snapshots belong together. */

export interface Admitted extends DatabaseIdentity {
  readonly made: Traits;
  /** The highest number of a snapshot. */
  readonly last: number;
}

/**
 * Makes the tables of a new store, or upgrades and checks those of an existing one. Then marks the snapshots whose
 * directories are not there, or not their own, and counts the opening.
 * @param pathOf the directory of the snapshot with this number
 * @throws UnpackError STORE_FAILED if the store cannot be used; system errors
 */
export function admit(
  file: DatabaseSync,
  opened: OpenedStore,
  wanted: WantedTraits,
  pathOf: (id: number) => string,
): Admitted {
  const { root } = opened;
  const path = metadataFile(root);
  const version = schemaVersion(file, path);
  if (version === 0) refuseWithoutDatabase(root);
  upgradeSchema(file, version);
  const made = version === 0 ? recordTraits(file, wanted) : checkTraits(file, path, wanted);
  const known = databaseIdentity(file);
  const record = readStoreRecord(root);
  let { identity } = known;
  if (identity === '') {
    // a crash during the upgrade may have left the file, and marks in the directories
    identity = (version === 0 ? undefined : record?.identity) ?? newIdentity();
    if (version !== 0) adoptDirectories(file, opened, identity, pathOf);
    writeStoreRecord(root, { identity, openings: 0, ...made });
  } else {
    requireSameStore(root, known, record);
  }
  requireKnownNumbers(file, root, identity, pathOf);
  markBroken(file, identity, pathOf);
  const openings = known.openings + 1;
  file.prepare('UPDATE store SET identity = ?, openings = ?').run(identity, openings);
  return { made, identity, openings, last: lastNumber(file) };
}

export function databaseIdentity(file: DatabaseSync): DatabaseIdentity {
  const row = file.prepare(STATEMENTS.identity).get();
  return { identity: text(row?.identity), openings: number(row?.openings) };
}

/** Marks the directories of a store whose schema has no identity yet, and adds their records. */
function adoptDirectories(
  file: DatabaseSync,
  { descriptor }: OpenedStore,
  identity: string,
  pathOf: (id: number) => string,
): void {
  for (const row of file
    .prepare(STATEMENTS.walk)
    .all({ name: null, parent: null, kind: null, labels: '{}', mount: null })) {
    const { id, info } = entry(row);
    const directory = pathOf(id);
    if (existsSync(directory)) adopt(directory, identity, recordOf(info));
  }
  syncFileSystemNow(descriptor);
}

/**
 * A crash between the rename and the commit leaves a directory whose number comes next. Every other directory of this store
 * with a number that the database has never given was made after this copy of the database. Directories without the mark of
 * the store are foreign: their numbers are not given.
 */
function requireKnownNumbers(file: DatabaseSync, root: string, identity: string, pathOf: (id: number) => string): void {
  const last = lastNumber(file);
  let highest = last;
  for (const id of numberedDirectories(root)) {
    if (id <= last) continue;
    if (ownerOf(pathOf(id)) !== identity) highest = id <= Number.MAX_SAFE_INTEGER ? Math.max(highest, id) : highest;
    else if (id !== last + 1 || !isUnfinished(pathOf(id), identity)) throw olderDatabase(root);
  }
  if (highest > last) setLastNumber(file, highest);
}

export function setLastNumber(file: DatabaseSync, last: number): void {
  file.exec(`DELETE FROM sqlite_sequence WHERE name = 'snapshots'`);
  file.prepare(`INSERT INTO sqlite_sequence (name, seq) VALUES ('snapshots', ?)`).run(last);
}

export function lastNumber(file: DatabaseSync): number {
  return number(file.prepare(STATEMENTS.last).get()?.seq ?? 0);
}

/** Whether a directory without a row was made by this store, and its snapshot was never committed. */
export function isUnfinished(directory: string, identity: string): boolean {
  return ownerOf(directory) === identity && readRecord(directory, 'committed') === undefined;
}

/**
 * Marks the committed snapshots whose directories cannot be used, and clears the marks of those that are back. Deletes the
 * rows of other snapshots without a directory: its name is synced only at the commit, so a loss of power can lose it.
 */
export function markBroken(file: DatabaseSync, identity: string, pathOf: (id: number) => string): void {
  const mark = file.prepare(STATEMENTS.setBroken);
  const remove = file.prepare(STATEMENTS.remove);
  let changed = false;
  for (const row of file.prepare(STATEMENTS.rows).all()) {
    const [id, before] = [number(row.id), row.broken === null ? undefined : brokenReason(row.broken)];
    const now = brokenState(pathOf(id), identity, kind(row.kind), text(row.key));
    if (now !== undefined && row.kind !== 'committed') {
      remove.run({ id });
    } else if (now !== before && !(now === undefined && before === 'parent')) {
      mark.run({ id, broken: now ?? null });
      changed = true;
    }
  }
  if (changed) file.exec(STATEMENTS.spreadBroken);
}

/** Why a snapshot cannot be used, judged by its own directory alone. */
export function brokenState(
  directory: string,
  identity: string,
  kind: SnapshotKind,
  key: string,
): Exclude<BrokenReason, 'parent'> | undefined {
  const owner = ownerOf(directory);
  if (owner === undefined && !existsSync(directory)) return 'gone';
  if (owner !== identity) return 'foreign';
  if (kind !== 'committed') return undefined;
  if (readRecord(directory, 'committed')?.name !== key) return 'foreign';
  return existsSync(`${directory}/fs`) ? undefined : 'gone';
}
