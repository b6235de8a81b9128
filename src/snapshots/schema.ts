/** Written into the file's header, so that another program's database is told from a store: the bytes "unpk". */
export const APPLICATION_ID = 0x756e706b;
/** The one before a change that an older version can't read. */
export const SCHEMA_VERSION = 2;

/**
 * AUTOINCREMENT, so that the number of a removed snapshot, and with it the name of its directory, never comes back.
 * Times are milliseconds since 1970; labels are a JSON object of strings; bytes and inodes stay NULL until somebody asks
 * for the usage of a committed snapshot.
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

const COLUMNS = `
  snapshots.id, snapshots.key, snapshots.kind, snapshots.labels, snapshots.created, snapshots.updated,
  snapshots.bytes, snapshots.inodes, snapshots.parent AS parent_id, COALESCE(parent.key, '') AS parent
`;

/** Every statement of the store, prepared once by its name. */
export const STATEMENTS = {
  byKey: `
    SELECT ${COLUMNS}
    FROM snapshots LEFT JOIN snapshots AS parent ON parent.id = snapshots.parent
    WHERE snapshots.key = :key`,

  committed: `SELECT 1 FROM snapshots WHERE key = ? AND kind = 'committed'`,

  /** By the index of the keys: nothing else is looked at, in a store of any size. */
  keys: `SELECT key FROM snapshots WHERE key >= ? AND key < ? AND kind <> 'committed' ORDER BY key`,

  /** A snapshot and all below it, nearest first, in one statement and so as of one moment. */
  chain: `
    WITH RECURSIVE chain (id, kind, parent, depth) AS (
      SELECT id, kind, parent, 0 FROM snapshots WHERE key = :key
      UNION ALL
      SELECT below.id, below.kind, below.parent, chain.depth + 1
      FROM snapshots AS below JOIN chain ON below.id = chain.parent
    )
    SELECT id, kind FROM chain ORDER BY depth`,

  walk: `
    SELECT ${COLUMNS}
    FROM snapshots LEFT JOIN snapshots AS parent ON parent.id = snapshots.parent
    WHERE (:name IS NULL OR snapshots.key = :name)
      AND (:parent IS NULL OR COALESCE(parent.key, '') = :parent)
      AND (:kind IS NULL OR snapshots.kind = :kind)
      AND NOT EXISTS (
        SELECT 1 FROM json_each(:labels) AS wanted
        WHERE NOT EXISTS (
          SELECT 1 FROM json_each(snapshots.labels) AS label
          WHERE label.key = wanted.key AND label.value = wanted.value))
    ORDER BY snapshots.key`,

  children: 'SELECT COUNT(*) AS count FROM snapshots WHERE parent = :id',

  ids: 'SELECT id, kind FROM snapshots ORDER BY id',

  insert: `
    INSERT INTO snapshots (key, kind, parent, labels, created, updated)
    VALUES (:key, :kind, :parent, :labels, :now, :now)`,

  commit: `
    UPDATE snapshots
    SET key = :name, kind = 'committed', parent = :parent, labels = :labels, created = :now, updated = :now
    WHERE id = :id`,

  relabel: 'UPDATE snapshots SET labels = :labels, updated = :now WHERE id = :id',

  recordUsage: `UPDATE snapshots SET bytes = :bytes, inodes = :inodes WHERE id = :id AND kind = 'committed'`,

  remove: 'DELETE FROM snapshots WHERE id = :id',
} as const;
