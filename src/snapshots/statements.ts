import type { SQLOutputValue, StatementSync } from 'node:sqlite';
import { type BrokenReason, type Claim, EXTRACTION, type SnapshotKind } from './snapshotter.ts';

/**
 * Whether this process may use the files of a committed snapshot. They are on disk; or the process demands less, and they
 * were written through the mount that it uses, or by a version of unpackd that did not record it.
 * @param mount a parameter: the mount that this process uses; NULL if it demands that all files are on disk
 */
const usable = (row: string, mount: string): string =>
  `(${row}.synced IS 1 OR (${mount} IS NOT NULL AND (${row}.synced IS NULL OR ${row}.written_on IS ${mount})))`;

const COLUMNS = `
  ${usable('snapshots', ':mount')} AS usable, snapshots.synced,
  snapshots.id, snapshots.key, snapshots.kind, snapshots.labels, snapshots.created, snapshots.updated,
  snapshots.created_nanos, snapshots.updated_nanos, snapshots.claim,
  snapshots.bytes, snapshots.inodes, snapshots.broken, snapshots.parent AS parent_id, COALESCE(parent.key, '') AS parent
`;

/** All SQL statements of the store. Transactions prepares each of them once. */
export const STATEMENTS = {
  byKey: `
    SELECT ${COLUMNS}
    FROM snapshots LEFT JOIN snapshots AS parent ON parent.id = snapshots.parent
    WHERE snapshots.key = :key`,

  /** Whether a committed snapshot can be used, with all below it: 1 if so. */
  committed: `
    WITH RECURSIVE chain (parent, usable) AS (
      SELECT parent, ${usable('snapshots', '?2')} FROM snapshots
      WHERE key = ?1 AND kind = 'committed' AND broken IS NULL
      UNION ALL
      SELECT below.parent, ${usable('below', '?2')} FROM chain JOIN snapshots AS below ON below.id = chain.parent
      WHERE chain.usable
    )
    SELECT MIN(usable) AS usable FROM chain`,

  /** The layers of a committed snapshot, and whether their files are known to be on disk. */
  chainSynced: `
    WITH RECURSIVE chain (id, parent, synced) AS (
      SELECT id, parent, synced FROM snapshots WHERE key = :key AND kind = 'committed'
      UNION ALL
      SELECT below.id, below.parent, below.synced FROM chain JOIN snapshots AS below ON below.id = chain.parent
    )
    SELECT id, synced IS 1 AS synced FROM chain`,

  /** A range of the index on `key`, so the time does not grow with the store. */
  keys: `
    SELECT key FROM snapshots
    WHERE key >= ? AND key < ? AND kind <> 'committed' AND claim IS NULL ORDER BY key`,

  /** A snapshot and all snapshots below it, direct parent first. One statement, so the result is consistent. */
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

  rows: 'SELECT id, key, kind, broken FROM snapshots ORDER BY id',

  /** The highest number that a snapshot ever had. */
  last: `SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'`,

  identity: 'SELECT identity, openings FROM store',

  setBroken: 'UPDATE snapshots SET broken = :broken WHERE id = :id',

  /** Marks what stands on a broken snapshot, and clears the mark of what does not any more. */
  spreadBroken: `
    WITH RECURSIVE above (id) AS (
      SELECT child.id FROM snapshots AS child JOIN snapshots AS below ON below.id = child.parent
      WHERE below.broken IN ('gone', 'foreign')
      UNION
      SELECT child.id FROM snapshots AS child JOIN above ON above.id = child.parent
    )
    UPDATE snapshots SET broken = CASE WHEN id IN (SELECT id FROM above) THEN 'parent' END
    WHERE broken IS NOT 'gone' AND broken IS NOT 'foreign'
      AND (broken IS NOT NULL OR id IN (SELECT id FROM above))`,

  adoptChildren: 'UPDATE snapshots SET parent = :id WHERE parent = :broken',

  insert: `
    INSERT INTO snapshots (key, kind, parent, labels, claim, created, updated, created_nanos, updated_nanos)
    VALUES (:key, :kind, :parent, :labels, :claim, :milliseconds, :milliseconds, :nanoseconds, :nanoseconds)`,

  commit: `
    UPDATE snapshots
    SET key = :name, kind = 'committed', parent = :parent, labels = :labels, bytes = :bytes, inodes = :inodes,
      created = :milliseconds, updated = :milliseconds, created_nanos = :nanoseconds, updated_nanos = :nanoseconds,
      claim = COALESCE(claim, :claim), synced = :synced, written_on = :writtenOn
    WHERE id = :id`,

  markSynced: `UPDATE snapshots SET synced = 1, written_on = NULL WHERE id = :id AND synced = 0`,

  /** Any snapshot that was not synced may be what the kernel has lost. */
  suspectAll: `UPDATE snapshots SET written_on = NULL WHERE synced = 0`,

  relabel: `
    UPDATE snapshots SET labels = :labels, updated = :milliseconds, updated_nanos = :nanoseconds WHERE id = :id`,

  /** Claims a committed snapshot that containerd has not made, and all below it. Returns those that were not claimed. */
  adopt: `
    WITH RECURSIVE chain (id) AS (
      SELECT id FROM snapshots WHERE key = :key AND kind = 'committed'
      UNION ALL
      SELECT above.parent FROM chain JOIN snapshots AS above ON above.id = chain.id WHERE above.parent IS NOT NULL
    )
    UPDATE snapshots SET claim = 'adopted' WHERE id IN (SELECT id FROM chain) AND claim IS NULL RETURNING id`,

  release: `UPDATE snapshots SET claim = NULL WHERE id = :id`,

  claimedChildren: 'SELECT COUNT(*) AS count FROM snapshots WHERE parent = :id AND claim IS NOT NULL',

  remove: 'DELETE FROM snapshots WHERE id = :id',

  imageUsed: `
    SELECT used FROM images WHERE reference = ? AND platform = ? AND chain_id IS ? AND manifest IS ?`,

  image: 'SELECT * FROM images WHERE reference = :reference AND platform = :platform',

  imagesOf: `
    SELECT * FROM images WHERE reference = :reference AND (:platform IS NULL OR platform = :platform) ORDER BY platform`,

  /** With the number of the top snapshot. */
  images: `
    SELECT images.*, top.id AS top, top.broken
    FROM images LEFT JOIN snapshots AS top ON top.key = images.chain_id AND top.kind = 'committed'
    ORDER BY reference, platform`,

  /** What the sizes of images are added up from. Only the columns that this needs: with all, it takes four times as long. */
  sizes: `SELECT id, parent, bytes, inodes FROM snapshots WHERE kind = 'committed'`,

  /** Views and active snapshots on others, without unfinished layers. */
  users: `
    SELECT parent, key FROM snapshots
    WHERE kind <> 'committed' AND parent IS NOT NULL AND key NOT GLOB '${EXTRACTION}*' ORDER BY key`,

  insertImage: `
    INSERT INTO images
      (reference, platform, chain_id, manifest, config, image_index, source, job, unpacked, used, pinned)
    VALUES
      (:reference, :platform, :chain, :manifest, :config, :index, :source, :job, :unpacked, :used, :pinned)`,

  updateImage: `
    UPDATE images
    SET reference = :reference, platform = :platform, chain_id = :chain, manifest = :manifest, config = :config,
        image_index = :index, source = :source, job = :job, unpacked = :unpacked, used = :used
    WHERE id = :id`,

  renameImage: 'UPDATE images SET reference = :reference, pinned = 0 WHERE id = :id',

  pinImage: 'UPDATE images SET pinned = :pinned WHERE id = :id',

  removeImage: 'DELETE FROM images WHERE id = :id',

  /** Writes only if the recorded time is older than one step, or in the future. */
  useImages: `
    UPDATE images SET used = :now WHERE chain_id = :chain AND ABS(:now - used) >= :step`,

  document: 'SELECT bytes FROM documents WHERE digest = :digest',

  addDocument: 'INSERT INTO documents (digest, bytes) VALUES (:digest, :bytes) ON CONFLICT DO NOTHING',

  /** Deletes a document that no image has. */
  dropDocument: `
    DELETE FROM documents
    WHERE digest = :digest AND NOT EXISTS (
      SELECT 1 FROM images WHERE manifest = :digest
      UNION ALL SELECT 1 FROM images WHERE config = :digest
      UNION ALL SELECT 1 FROM images WHERE image_index = :digest)`,
} as const;

export type Row = Record<string, SQLOutputValue>;

/** The parameter `mount` of the statements. */
export function usableThrough({
  durable,
  mount,
}: {
  readonly durable: boolean;
  readonly mount: string;
}): string | null {
  return durable ? null : mount;
}

/** @param statement `STATEMENTS.committed`, prepared @param mount as `usableThrough` returns it */
export function isUsable(statement: StatementSync, name: string, mount: string | null): boolean {
  return statement.get(name, mount)?.usable === 1;
}

/** Keys that begin with `prefix`. @param statement `STATEMENTS.keys`, prepared @param prefix ASCII, not empty */
export function keysIn(statement: StatementSync, prefix: string): string[] {
  const after = prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1);
  return statement.all(prefix, after).map(({ key }) => text(key));
}

// The tables are STRICT, so SQLite has already checked the types. These functions tell the compiler.

export function number(value: SQLOutputValue | undefined): number {
  if (typeof value !== 'number') throw new TypeError(`the store's database holds ${typeof value} instead of a number`);
  return value;
}

export function text(value: SQLOutputValue | undefined): string {
  if (typeof value !== 'string') throw new TypeError(`the store's database holds ${typeof value} instead of a text`);
  return value;
}

export function kind(value: SQLOutputValue | undefined): SnapshotKind {
  const word = text(value);
  if (word === 'active' || word === 'view' || word === 'committed') return word;
  throw new TypeError(`the store's database holds a snapshot of the unknown kind ${word}`);
}

export function claim(value: SQLOutputValue | undefined): Claim {
  const word = text(value);
  if (word === 'made' || word === 'adopted') return word;
  throw new TypeError(`the store's database holds a snapshot with the unknown claim ${word}`);
}

export function brokenReason(value: SQLOutputValue | undefined): BrokenReason {
  const word = text(value);
  if (word === 'gone' || word === 'foreign' || word === 'parent') return word;
  throw new TypeError(`the store's database holds a snapshot that is broken for the unknown reason ${word}`);
}
