import type { StatementSync } from 'node:sqlite';
import { SnapshotError, type SnapshotInfo, type SnapshotKind } from './snapshotter.ts';
import { brokenReason, claim, kind, number, type Row, text } from './statements.ts';

/** The rows of the table `snapshots` as objects, and how one is found. Metadata, Claims and NameReader call it. */

/** One row of the table `snapshots`. */
export interface Entry {
  /** The name of the directory; never used twice. */
  readonly id: number;
  readonly info: SnapshotInfo;
  readonly parentId: number | undefined;
}

/** @param row with COLUMNS */
export function entry(row: Row): Entry {
  return {
    id: number(row.id),
    info: {
      kind: kind(row.kind),
      name: text(row.key),
      parent: text(row.parent),
      // `as`: only objects of strings are written
      labels: JSON.parse(text(row.labels)) as Record<string, string>,
      created: new Date(number(row.created)),
      updated: new Date(number(row.updated)),
      nanoseconds: { created: number(row.created_nanos), updated: number(row.updated_nanos) },
      ...(row.bytes === null ? {} : { size: { bytes: number(row.bytes), inodes: number(row.inodes) } }),
      synced: row.synced === 1,
      ...(row.kind === 'committed' && row.usable === 0 ? { suspect: true } : {}),
      ...(row.broken === null ? {} : { broken: brokenReason(row.broken) }),
      ...(row.claim === null ? {} : { claim: claim(row.claim) }),
    },
    parentId: row.parent_id === null ? undefined : number(row.parent_id),
  };
}

/**
 * The snapshot `key`; `undefined` if there is none.
 * @param statement `STATEMENTS.byKey`, prepared
 * @param mount as `usableThrough` returns it
 */
export function lookUp(statement: StatementSync, key: string, mount: string | null): Entry | undefined {
  const row = statement.get({ key, mount });
  return row === undefined ? undefined : entry(row);
}

/** As `lookUp`. @throws NotFound */
export function find(statement: StatementSync, key: string, mount: string | null): Entry {
  const found = lookUp(statement, key, mount);
  if (found === undefined) throw new SnapshotError('NotFound', `there is no snapshot ${key}`);
  return found;
}

/** A snapshot and the committed snapshots below it. */
export interface Chain {
  readonly id: number;
  readonly kind: SnapshotKind;
  /** The direct parent first. */
  readonly parents: readonly number[];
}

/** @param rows of `STATEMENTS.chain` @throws NotFound */
export function chainOf([first, ...below]: readonly Row[], key: string): Chain {
  if (first === undefined) throw new SnapshotError('NotFound', `there is no snapshot ${key}`);
  return { id: number(first.id), kind: kind(first.kind), parents: below.map((row) => number(row.id)) };
}
