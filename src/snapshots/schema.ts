import type { DatabaseSync, SQLOutputValue } from 'node:sqlite';
import { UnpackError } from '../errors.ts';
import type { OverlayXattrs, Ownership, Snapshotter } from './snapshotter.ts';
import { number, text } from './statements.ts';

/** In the header of the database file, to recognise a store: the bytes "unpk". */
export const APPLICATION_ID = 0x756e706b;
/** Version of the schema that the first of STEPS makes. Stores of earlier versions were never released. */
const FIRST_VERSION = 2;

/**
 * The steps from each version of the schema to the next. A new store takes all of them, and a store of an older version the
 * ones that it lacks, in the same transaction. To change the schema, append a step.
 *
 * AUTOINCREMENT never gives the number of a removed snapshot again, so directory names are unique. Times are milliseconds
 * since 1970, and the columns `…_nanos` hold the nanoseconds beyond them. Labels are a JSON object of strings. `bytes` and
 * `inodes` are NULL if the usage of a committed snapshot is not recorded.
 */
export const STEPS: readonly string[] = [
  // version 2
  `
  CREATE TABLE store (
    type           TEXT NOT NULL CHECK (type IN ('overlay', 'native')),
    ownership      TEXT NOT NULL CHECK (ownership IN ('keep', 'squash')),
    overlay_xattrs TEXT NOT NULL CHECK (overlay_xattrs IN ('trusted', 'user'))
  ) STRICT;
  CREATE TABLE snapshots (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    key     TEXT    NOT NULL UNIQUE,
    kind    TEXT    NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
    parent  INTEGER REFERENCES snapshots (id),
    labels  TEXT    NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    bytes   INTEGER,
    inodes  INTEGER
  ) STRICT;
  CREATE INDEX snapshots_parent ON snapshots (parent) WHERE parent IS NOT NULL;
`,
  // version 3: `identity` as in snapshots/store.json; `openings` counts how many times the store was opened for changes;
  // `broken` says why a snapshot cannot be used: its directory is gone or foreign, or a snapshot below it is broken
  `
  ALTER TABLE store ADD COLUMN identity TEXT NOT NULL DEFAULT '';
  ALTER TABLE store ADD COLUMN openings INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE snapshots ADD COLUMN broken TEXT CHECK (broken IN ('gone', 'foreign', 'parent'));
`,
  // version 4: `synced` says whether the files of this snapshot are on disk, without those below it; NULL: an earlier version
  // wrote it and did not record that. `written_on` is the mount through which an unsynced snapshot was written: the boot ID
  // and the unique mount ID. `documents` are the bytes of manifests, configs and indexes. An image has at most one row for
  // each reference and platform; `chain_id` is NULL for an image without layers
  `
  ALTER TABLE snapshots ADD COLUMN synced INTEGER CHECK (synced IN (0, 1));
  ALTER TABLE snapshots ADD COLUMN written_on TEXT;
  CREATE TABLE documents (
    digest TEXT PRIMARY KEY,
    bytes  BLOB NOT NULL
  ) STRICT;
  CREATE TABLE images (
    id          INTEGER PRIMARY KEY,
    reference   TEXT    NOT NULL,
    platform    TEXT    NOT NULL,
    chain_id    TEXT,
    manifest    TEXT    REFERENCES documents (digest),
    config      TEXT    REFERENCES documents (digest),
    image_index TEXT    REFERENCES documents (digest),
    source      TEXT    NOT NULL,
    job         TEXT,
    unpacked    INTEGER NOT NULL,
    used        INTEGER NOT NULL,
    pinned      INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
    UNIQUE (reference, platform)
  ) STRICT;
  CREATE INDEX images_chain_id ON images (chain_id) WHERE chain_id IS NOT NULL;
  CREATE INDEX images_manifest ON images (manifest) WHERE manifest IS NOT NULL;
  CREATE INDEX images_config ON images (config) WHERE config IS NOT NULL;
  CREATE INDEX images_index ON images (image_index) WHERE image_index IS NOT NULL;
`,
  // version 5: nanoseconds, and `claim`: whether containerd knows the snapshot, see Claim
  `
  ALTER TABLE snapshots ADD COLUMN created_nanos INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE snapshots ADD COLUMN updated_nanos INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE snapshots ADD COLUMN claim TEXT CHECK (claim IN ('made', 'adopted'));
`,
];

/** The first version with an identity. */
export const IDENTITY_VERSION = 3;
export const SCHEMA_VERSION = FIRST_VERSION + STEPS.length - 1;

/** Properties that all snapshots of a store share. They are recorded when the store is made. */
export interface Traits {
  readonly type: Snapshotter['type'];
  readonly ownership: Ownership;
  readonly overlayXattrs: OverlayXattrs;
}

/** The properties that a caller asks for. Without `ownership`: the store's own. */
export type WantedTraits = Omit<Traits, 'ownership'> & { readonly ownership?: Ownership | undefined };

/** @throws UnpackError STORE_FAILED if the file is the database of another program */
export function refuseOthers(file: DatabaseSync, path: string): void {
  const id = number(file.prepare('PRAGMA application_id').get()?.application_id);
  const tables = number(file.prepare('SELECT COUNT(*) AS count FROM sqlite_schema').get()?.count);
  if (id === APPLICATION_ID || (id === 0 && tables === 0)) return;
  throw new UnpackError(
    'STORE_FAILED',
    `${path} is another program's database: choose an empty directory for the store`,
  );
}

/** The version of the schema; 0 for a new file. @throws UnpackError STORE_FAILED if this unpackd cannot use it */
export function schemaVersion(file: DatabaseSync, path: string): number {
  const version = number(file.prepare('PRAGMA user_version').get()?.user_version);
  if (version === 0 || (version >= FIRST_VERSION && version <= SCHEMA_VERSION)) return version;
  const which = `${path} has version ${version} of the schema and this unpackd knows ${SCHEMA_VERSION}`;
  throw new UnpackError('STORE_FAILED', `${which}: use the unpackd that made it, or another directory`);
}

/** @throws UnpackError STORE_FAILED for an older schema, whose statements differ */
export function requireNewest(version: number, path: string): void {
  if (version === SCHEMA_VERSION) return;
  throw new UnpackError(
    'STORE_FAILED',
    `${path} has version ${version} of the schema, before ${SCHEMA_VERSION}: start a worker, or run unpackd snapshots cleanup, to upgrade it`,
  );
}

/** Takes the steps from `version` to the newest one. Call it inside a transaction. */
export function upgradeSchema(file: DatabaseSync, version: number): void {
  const taken = version === 0 ? 0 : version - FIRST_VERSION + 1;
  for (const step of STEPS.slice(taken)) file.exec(step);
  file.exec(`PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${SCHEMA_VERSION};`);
}

/** Records the traits of a new store. @returns the traits */
export function recordTraits(file: DatabaseSync, { type, ownership = 'keep', overlayXattrs }: WantedTraits): Traits {
  const made: Traits = { type, ownership, overlayXattrs };
  const set = 'UPDATE store SET type = :type, ownership = :ownership, overlay_xattrs = :overlayXattrs';
  const insert = 'INSERT INTO store (type, ownership, overlay_xattrs) VALUES (:type, :ownership, :overlayXattrs)';
  if (file.prepare(set).run({ ...made }).changes === 0) file.prepare(insert).run({ ...made });
  return made;
}

/**
 * Checks that an existing store has the properties that the caller asks for. An empty store takes another ownership.
 * @returns the properties of the store
 * @throws UnpackError STORE_FAILED if they do not match
 */
export function checkTraits(file: DatabaseSync, path: string, wanted: WantedTraits): Traits {
  const made = readTraits(file);
  requireType(made, path, wanted.type);
  if (wanted.ownership === undefined || wanted.ownership === made.ownership) return made;
  if (number(file.prepare('SELECT COUNT(*) AS count FROM snapshots').get()?.count) === 0) {
    return recordTraits(file, wanted);
  }
  // a chain ID does not tell whether the files of a layer have their owners, so a store cannot mix both
  const holds = made.ownership === 'keep' ? 'with their owners' : 'whose files all belong to one user';
  throw new UnpackError(
    'STORE_FAILED',
    `the store of ${path} holds layers ${holds} and takes no others: set UNPACK_OWNERSHIP=${made.ownership}, or choose another directory`,
  );
}

/** @throws UnpackError STORE_FAILED if the store was made as the other type */
export function requireType(made: Traits, path: string, type: Snapshotter['type']): void {
  if (made.type === type) return;
  const which = `the store of ${path} was made as ${made.type} and can't be used as ${type}`;
  throw new UnpackError('STORE_FAILED', `${which}: set the snapshotter to ${made.type}, or choose another directory`);
}

export function readTraits(file: DatabaseSync): Traits {
  return traits(file.prepare('SELECT type, ownership, overlay_xattrs FROM store').get() ?? {});
}

function traits(row: Record<string, SQLOutputValue>): Traits {
  return {
    type: text(row.type) === 'native' ? 'native' : 'overlay',
    ownership: text(row.ownership) === 'squash' ? 'squash' : 'keep',
    overlayXattrs: text(row.overlay_xattrs) === 'user' ? 'user' : 'trusted',
  };
}
