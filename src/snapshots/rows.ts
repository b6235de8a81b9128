import type { SQLOutputValue, StatementSync } from 'node:sqlite';
import type { OverlayXattrs, Ownership, SnapshotInfo, SnapshotKind, Snapshotter, Usage } from './snapshotter.ts';

/** What holds for all snapshots of a store, from the first one on. */
export interface Traits {
  readonly type: Snapshotter['type'];
  readonly ownership: Ownership;
  readonly overlayXattrs: OverlayXattrs;
}

/** A snapshot as the metadata know it. */
export interface Entry {
  /** Names the directory; never used twice. */
  readonly id: number;
  readonly info: SnapshotInfo;
  readonly parentId: number | undefined;
  /** Known for committed snapshots that somebody has asked about. */
  readonly usage: Usage | undefined;
}

export function entry(row: Record<string, SQLOutputValue>): Entry {
  const usage = row.bytes === null ? undefined : { bytes: number(row.bytes), inodes: number(row.inodes) };
  return {
    id: number(row.id),
    info: {
      kind: kind(row.kind),
      name: text(row.key),
      parent: text(row.parent),
      // `as`: only objects of strings are ever written there
      labels: JSON.parse(text(row.labels)) as Record<string, string>,
      created: new Date(number(row.created)),
      updated: new Date(number(row.updated)),
    },
    parentId: row.parent_id === null ? undefined : number(row.parent_id),
    usage,
  };
}

/** The keys of active snapshots and views that begin so. @param statement `keys` @param prefix ASCII, not empty */
export function keysIn(statement: StatementSync, prefix: string): string[] {
  const after = prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1);
  return statement.all(prefix, after).map(({ key }) => text(key));
}

export function traits(row: Record<string, SQLOutputValue>): Traits {
  return {
    type: text(row.type) === 'native' ? 'native' : 'overlay',
    ownership: text(row.ownership) === 'squash' ? 'squash' : 'keep',
    overlayXattrs: text(row.overlay_xattrs) === 'user' ? 'user' : 'trusted',
  };
}

// The schema is STRICT: these three tell the compiler what SQLite has already made sure of.

export function number(value: SQLOutputValue | undefined): number {
  if (typeof value !== 'number') throw new TypeError(`the metadata hold ${typeof value} where a number belongs`);
  return value;
}

export function text(value: SQLOutputValue | undefined): string {
  if (typeof value !== 'string') throw new TypeError(`the metadata hold ${typeof value} where a text belongs`);
  return value;
}

export function kind(value: SQLOutputValue | undefined): SnapshotKind {
  const word = text(value);
  if (word === 'active' || word === 'view' || word === 'committed') return word;
  throw new TypeError(`the metadata hold a snapshot of the unknown kind ${word}`);
}
