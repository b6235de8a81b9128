import type { DatabaseSync, SQLOutputValue } from 'node:sqlite';
import { UnpackError } from '../errors.ts';
import type { OverlayXattrs, Ownership, Snapshotter } from './snapshotter.ts';
import { number, text } from './statements.ts';

/** In the header of the database file, to recognise a store: the bytes "unpk". */
export const APPLICATION_ID = 0x756e706b;
/** To be raised with a change that an older unpackd cannot read. */
export const SCHEMA_VERSION = 2;

/**
 * AUTOINCREMENT never gives the number of a removed snapshot again, so directory names are unique. Times are milliseconds
 * since 1970. Labels are a JSON object of strings. `bytes` and `inodes` are NULL until the usage of a committed snapshot is
 * measured.
 */
export const SCHEMA = `
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
`;

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

/**
 * Makes the tables of a new store, or checks those of an existing one.
 * @returns the properties that the store was made with
 * @throws UnpackError STORE_FAILED if they do not match, or if the schema has another version
 */
export function createOrCheck(file: DatabaseSync, path: string, wanted: WantedTraits): Traits {
  const version = number(file.prepare('PRAGMA user_version').get()?.user_version);
  if (version === 0) {
    file.exec(SCHEMA);
    file.exec(`PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${SCHEMA_VERSION};`);
    return record(file, wanted);
  }
  if (version !== SCHEMA_VERSION) {
    const which = `${path} has version ${version} of the schema and this unpackd knows ${SCHEMA_VERSION}`;
    throw new UnpackError('STORE_FAILED', `${which}: use the unpackd that made it, or another directory`);
  }
  const made = traits(file.prepare('SELECT type, ownership, overlay_xattrs FROM store').get() ?? {});
  if (made.type !== wanted.type) {
    const which = `the store of ${path} was made as ${made.type} and can't be used as ${wanted.type}`;
    throw new UnpackError('STORE_FAILED', `${which}: set the snapshotter to ${made.type}, or choose another directory`);
  }
  if (wanted.ownership === undefined || wanted.ownership === made.ownership) return made;
  if (number(file.prepare('SELECT COUNT(*) AS count FROM snapshots').get()?.count) === 0) return record(file, wanted);
  // a chain ID does not tell whether the files of a layer have their owners, so a store cannot mix both
  const holds = made.ownership === 'keep' ? 'with their owners' : 'whose files all belong to one user';
  throw new UnpackError(
    'STORE_FAILED',
    `the store of ${path} holds layers ${holds} and takes no others: set UNPACK_OWNERSHIP=${made.ownership}, or choose another directory`,
  );
}

function record(file: DatabaseSync, { type, ownership = 'keep', overlayXattrs }: WantedTraits): Traits {
  file.exec('DELETE FROM store');
  const insert = file.prepare('INSERT INTO store (type, ownership, overlay_xattrs) VALUES (?, ?, ?)');
  insert.run(type, ownership, overlayXattrs);
  return { type, ownership, overlayXattrs };
}

export function traits(row: Record<string, SQLOutputValue>): Traits {
  return {
    type: text(row.type) === 'native' ? 'native' : 'overlay',
    ownership: text(row.ownership) === 'squash' ? 'squash' : 'keep',
    overlayXattrs: text(row.overlay_xattrs) === 'user' ? 'user' : 'trusted',
  };
}
