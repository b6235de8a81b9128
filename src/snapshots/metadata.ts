import type { DatabaseSync } from 'node:sqlite';
import { admit, databaseIdentity, isUnfinished } from './admission.ts';
import { Database, type OnRollback } from './database.ts';
import {
  metadataFile,
  type OpenedStore,
  readStoreRecord,
  refuseWithoutDatabase,
  requireSameStore,
  writeStoreRecord,
} from './identity.ts';
import { ownerOf } from './records.ts';
import {
  readTraits,
  refuseOthers,
  requireNewest,
  requireType,
  schemaVersion,
  type Traits,
  type WantedTraits,
} from './schema.ts';
import {
  type BrokenReason,
  type CommitOptions,
  SnapshotError,
  type SnapshotFilter,
  type SnapshotInfo,
  type SnapshotKind,
  type Usage,
} from './snapshotter.ts';
import { type Entry, entry, keysIn, kind, number, STATEMENTS } from './statements.ts';

/** A snapshot and the committed snapshots below it. */
export interface Chain {
  readonly id: number;
  readonly kind: SnapshotKind;
  /** The direct parent first. */
  readonly parents: readonly number[];
}

export interface NewSnapshot {
  readonly key: string;
  readonly kind: 'active' | 'view';
  /** `""` for none. */
  readonly parent: string;
  readonly labels: Readonly<Record<string, string>>;
}

type Labels = Readonly<Record<string, string>>;
type Statements = Parameters<Parameters<Database<keyof typeof STATEMENTS>['read']>[0]>[0];

/**
 * Records which snapshots exist. SnapshotStore is its only user. Each change is one transaction. If directories must
 * change together with a row, the caller passes a function that runs inside the transaction, before the commit. Each
 * transaction first checks that the database and ROOT/snapshots are still those that were opened, and belong together.
 */
export class Metadata {
  /** The properties that the store was made with. */
  readonly made: Traits;
  /** The ID of the store, which is in its directories too. */
  readonly identity: string;
  readonly #database: Database<keyof typeof STATEMENTS>;
  readonly #opened: OpenedStore;

  /** Nothing may be written. */
  readonly readOnly: boolean;

  private constructor(
    database: Database<keyof typeof STATEMENTS>,
    opened: OpenedStore,
    { made, identity }: Pick<Metadata, 'made' | 'identity'>,
    readOnly = false,
  ) {
    this.readOnly = readOnly;
    this.#database = database;
    this.#opened = opened;
    this.made = made;
    this.identity = identity;
  }

  /**
   * @param traits for a new store. An existing store must have this type, and this ownership if it is given and the store
   *   is not empty.
   * @param pathOf the directory of the snapshot with this number
   * @throws UnpackError STORE_FAILED if the file is not a store, has other traits, a newer schema version, or does not
   *   belong to ROOT/snapshots
   */
  static async open(
    opened: OpenedStore,
    lockTimeout: number,
    traits: WantedTraits,
    pathOf: (id: number) => string,
  ): Promise<Metadata> {
    const path = metadataFile(opened.root);
    let admitted: ReturnType<typeof admit> | undefined;
    const database = await Database.open(
      { path, lockTimeout },
      {
        accept: (file) => {
          opened.bind();
          refuseOthers(file, path);
          if (schemaVersion(file, path) === 0) refuseWithoutDatabase(opened.root);
        },
        prepare: (file) => {
          opened.check();
          admitted = admit(file, opened, traits, pathOf);
        },
        statements: STATEMENTS,
      },
    );
    if (admitted === undefined) throw new Error('a database was opened without being prepared');
    const { made, identity } = admitted;
    opened.expect(identity);
    const metadata = new Metadata(database, opened, admitted);
    try {
      await metadata.#write(({ identity: count }) => {
        const openings = number(count.get()?.openings);
        writeStoreRecord(opened.root, { identity, openings, ...made });
      });
    } catch (error) {
      database.close();
      throw error;
    }
    return metadata;
  }

  /**
   * Opens the metadata without writing or creating anything. Calls that change them fail.
   * @throws UnpackError STORE_FAILED as `open`, and for an older schema version
   */
  static async openReadOnly(opened: OpenedStore, lockTimeout: number, type: Traits['type']): Promise<Metadata> {
    const { root } = opened;
    const path = metadataFile(root);
    let facts: Pick<Metadata, 'made' | 'identity'> | undefined;
    const accept = (file: DatabaseSync) => {
      opened.bind();
      refuseOthers(file, path);
      requireNewest(schemaVersion(file, path), path);
      // the file is read first, because another process that opens the store counts in the database first
      const record = readStoreRecord(root);
      const known = databaseIdentity(file);
      requireSameStore(root, known, record);
      const made = readTraits(file);
      requireType(made, path, type);
      facts = { made, identity: known.identity };
    };
    const database = await Database.read({ path, lockTimeout }, { accept, statements: STATEMENTS });
    if (facts === undefined) throw new Error('a database was opened without being accepted');
    opened.expect(facts.identity);
    return new Metadata(database, opened, facts, true);
  }

  #read<T>(body: (statements: Statements) => T): Promise<T> {
    return this.#database.read((statements) => {
      this.#opened.check();
      return body(statements);
    });
  }

  #write<T>(body: (statements: Statements, onRollback: OnRollback) => T): Promise<T> {
    return this.#database.write((statements, onRollback) => {
      this.#opened.check();
      if (statements.identity.get()?.identity !== this.identity) throw this.#opened.replacedDatabase();
      return body(statements, onRollback);
    });
  }

  /** @throws NotFound */
  stat(key: string): Promise<Entry> {
    return this.#read((statements) => find(statements, key));
  }

  has(name: string): Promise<boolean> {
    return this.#read((statements) => statements.committed.get(name) !== undefined);
  }

  /** The keys of active snapshots and views that begin with `prefix`. @param prefix ASCII, not empty */
  keys(prefix: string): Promise<string[]> {
    return this.#read((statements) => keysIn(statements.keys, prefix));
  }

  /** @throws NotFound */
  chain(key: string): Promise<Chain> {
    return this.#read((statements) => chainOf(statements, key));
  }

  walk(filter: SnapshotFilter): Promise<Entry[]> {
    const parameters = {
      name: filter.name ?? null,
      parent: filter.parent ?? null,
      kind: filter.kind ?? null,
      labels: JSON.stringify(filter.labels ?? {}),
    };
    return this.#read((statements) => statements.walk.all(parameters).map((row) => entry(row)));
  }

  /** Throws if `create` would be refused now; writes nothing. @returns the parent @throws as `create` */
  check(snapshot: NewSnapshot): Promise<Entry | undefined> {
    return this.#read((statements) => checkNew(statements, snapshot));
  }

  /**
   * Inserts a new snapshot.
   * @param place renames the directory of the snapshot to its number
   * @throws AlreadyExists, NotFound (no such parent), InvalidArgument (the parent is not committed, the key is empty)
   */
  create(
    snapshot: NewSnapshot,
    place: (id: number, parentId: number | undefined, onRollback: OnRollback) => void,
  ): Promise<Chain> {
    return this.#write((statements, onRollback) => {
      const parent = checkNew(statements, snapshot);
      const { lastInsertRowid } = statements.insert.run({
        key: snapshot.key,
        kind: snapshot.kind,
        parent: parent?.id ?? null,
        labels: JSON.stringify(snapshot.labels),
        now: Date.now(),
      });
      place(Number(lastInsertRowid), parent?.id, onRollback);
      return chainOf(statements, snapshot.key);
    });
  }

  /**
   * Makes the active snapshot `key` the committed snapshot `name`. If a broken snapshot has that name, its children stand on
   * the new one, and its row is deleted.
   * @param recorded the number of the snapshot that the caller has recorded as committed in its directory
   * @param rebase called if the commit gives the snapshot a parent
   * @returns the number of the broken snapshot that was replaced
   * @throws AlreadyExists, NotFound, InvalidArgument
   */
  commit(
    name: string,
    key: string,
    options: CommitOptions,
    recorded: number,
    rebase: (id: number, parentId: number) => void,
  ): Promise<number | undefined> {
    return this.#write((statements) => {
      refuseEmpty(name, 'name');
      const there = statements.byKey.get({ key: name });
      const replaced = there === undefined ? undefined : entry(there);
      if (replaced !== undefined && replaced.info.broken === undefined) throw taken(name);
      const { id, info, parentId } = find(statements, key);
      if (id !== recorded) throw new SnapshotError('NotFound', `snapshot ${key} was replaced during its commit`);
      if (info.kind !== 'active') {
        throw new SnapshotError(
          'InvalidArgument',
          `snapshot ${name} can't be made of ${key}: it is ${aKind(info.kind)}`,
        );
      }
      const parentName = options.parent ?? '';
      let parent = parentId;
      if (parentName !== '' && parentName !== info.parent) {
        if (parentId !== undefined) {
          throw new SnapshotError(
            'InvalidArgument',
            `snapshot ${key} has the parent ${info.parent} and can't get ${parentName} at its commit`,
          );
        }
        parent = findParent(statements, parentName).id;
        rebase(id, parent);
      }
      if (replaced !== undefined) {
        statements.adoptChildren.run({ id, broken: replaced.id });
        statements.remove.run({ id: replaced.id });
      }
      const labels = JSON.stringify(options.labels ?? {});
      statements.commit.run({ id, name, parent: parent ?? null, labels, now: Date.now() });
      if (replaced !== undefined) statements.spreadBroken.run();
      return replaced?.id;
    });
  }

  /** Deletes the row of a snapshot. @returns its number @throws NotFound, FailedPrecondition (it has children) */
  remove(key: string): Promise<number> {
    return this.#write((statements) => {
      const { id } = find(statements, key);
      const children = number(statements.children.get({ id })?.count);
      if (children > 0) {
        const others = children === 1 ? 'another snapshot stands' : `${children} other snapshots stand`;
        throw new SnapshotError('FailedPrecondition', `snapshot ${key} can't be removed: ${others} on it`);
      }
      statements.remove.run({ id });
      return id;
    });
  }

  /** @returns the changed snapshot @throws NotFound, InvalidArgument (a field that is not a label) */
  update(key: string, labels: Labels, fields: readonly string[]): Promise<Entry> {
    return this.#write((statements) => {
      const found = find(statements, key);
      const { id, info } = found;
      const updated = { ...info, labels: mergeLabels(info, labels, fields), updated: new Date() };
      statements.relabel.run({ id, labels: JSON.stringify(updated.labels), now: updated.updated.getTime() });
      return { ...found, info: updated };
    });
  }

  /** Stores the usage of a committed snapshot. @returns whether the snapshot still exists */
  recordUsage(id: number, usage: Usage): Promise<boolean> {
    const { bytes, inodes } = usage;
    return this.#write((statements) => Number(statements.recordUsage.run({ id, bytes, inodes }).changes) > 0);
  }

  /** Marks a snapshot as broken, and all that stand on it. */
  markBroken(id: number, broken: Exclude<BrokenReason, 'parent'>): Promise<void> {
    return this.#write((statements) => {
      statements.setBroken.run({ id, broken });
      statements.spreadBroken.run();
    });
  }

  /**
   * Calls `body` with the kinds of all snapshots, while no process can add or remove one.
   * @param body gets a function too that tells whether a crash left the directory `path` with this number
   */
  exclusively<T>(
    body: (kinds: ReadonlyMap<number, SnapshotKind>, isLeft: (id: number, path: string) => boolean) => T,
  ): Promise<T> {
    return this.#write((statements) => {
      const kinds = new Map(statements.rows.all().map((row) => [number(row.id), kind(row.kind)]));
      const last = number(statements.last.get()?.seq ?? 0);
      const isLeft = (id: number, path: string) =>
        !kinds.has(id) && (id <= last ? ownerOf(path) === this.identity : isUnfinished(path, this.identity));
      return body(kinds, isLeft);
    });
  }

  /** Closes the database and the opened store. */
  close(): void {
    this.#database.close();
    this.#opened.close();
  }
}

function find(statements: Statements, key: string): Entry {
  const row = statements.byKey.get({ key });
  if (row === undefined) throw new SnapshotError('NotFound', `there is no snapshot ${key}`);
  return entry(row);
}

function findParent(statements: Statements, name: string): Entry {
  const parent = find(statements, name);
  if (parent.info.broken !== undefined) throw new SnapshotError('NotFound', `snapshot ${name} is broken`);
  if (parent.info.kind === 'committed') return parent;
  throw new SnapshotError('InvalidArgument', `snapshot ${name} can't be a parent: it is ${aKind(parent.info.kind)}`);
}

function checkNew(statements: Statements, snapshot: NewSnapshot): Entry | undefined {
  refuseEmpty(snapshot.key, 'key');
  const parent = snapshot.parent === '' ? undefined : findParent(statements, snapshot.parent);
  if (statements.byKey.get({ key: snapshot.key }) !== undefined) throw taken(snapshot.key);
  return parent;
}

function chainOf(statements: Statements, key: string): Chain {
  const [first, ...below] = statements.chain.all({ key });
  if (first === undefined) throw new SnapshotError('NotFound', `there is no snapshot ${key}`);
  return { id: number(first.id), kind: kind(first.kind), parents: below.map((row) => number(row.id)) };
}

/** Replaces all labels, or those that `fields` names. A label that is named and has no new value is removed. */
function mergeLabels(info: SnapshotInfo, labels: Labels, fields: readonly string[]): Labels {
  const merged = new Map(Object.entries(info.labels));
  const replaceAll = () => {
    merged.clear();
    for (const [name, value] of Object.entries(labels)) merged.set(name, value);
  };
  if (fields.length === 0) replaceAll();
  for (const field of fields) {
    if (field === 'labels') replaceAll();
    else if (field.startsWith('labels.')) {
      const name = field.slice('labels.'.length);
      const value = Object.hasOwn(labels, name) ? labels[name] : undefined;
      if (value === undefined) merged.delete(name);
      else merged.set(name, value);
    } else {
      throw new SnapshotError(
        'InvalidArgument',
        `${field} of snapshot ${info.name} can't be changed, only its labels can`,
      );
    }
  }
  return Object.fromEntries(merged);
}

function refuseEmpty(text: string, what: string): void {
  if (text === '') throw new SnapshotError('InvalidArgument', `the ${what} of a snapshot can't be empty`);
}

function taken(key: string): SnapshotError {
  return new SnapshotError('AlreadyExists', `there is a snapshot ${key} already`);
}

function aKind(kind: SnapshotKind): string {
  return kind === 'active' ? 'active' : kind === 'view' ? 'a view' : 'committed';
}
