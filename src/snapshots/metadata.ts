import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { Database, type OnRollback, type Patience } from './database.ts';
import { createOrCheck, refuseOthers, type Traits, type WantedTraits } from './schema.ts';
import {
  type CommitOptions,
  SnapshotError,
  type SnapshotFilter,
  type SnapshotInfo,
  type SnapshotKind,
  type Usage,
} from './snapshotter.ts';
import { type Entry, entry, keysIn, kind, number, STATEMENTS } from './statements.ts';

/** A snapshot and the committed ones below it, nearest first. */
export interface Chain {
  readonly id: number;
  readonly kind: SnapshotKind;
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
 * What exists: the one truth about the store. Each change is one transaction. What must happen on disk together with a
 * change is done by a function that the caller passes; it runs inside the transaction, before it is committed.
 */
export class Metadata {
  /** How the store was made. */
  readonly made: Traits;
  readonly #database: Database<keyof typeof STATEMENTS>;

  private constructor(database: Database<keyof typeof STATEMENTS>, made: Traits) {
    this.#database = database;
    this.made = made;
  }

  /**
   * @param traits of a store that is new or empty. Another must be of that type, and of that ownership if it is given.
   * @throws UnpackError STORE_FAILED when the file is not a store, not such a one, or of another version
   */
  static async open(patience: Patience, traits: WantedTraits): Promise<Metadata> {
    const { path } = patience;
    let made: Traits | undefined;
    const database = await Database.open(patience, {
      accept: (file) => refuseOthers(file, path),
      prepare: (file) => {
        made = createOrCheck(file, path, traits);
      },
      statements: STATEMENTS,
    });
    if (made === undefined) throw new Error('a database was opened without being prepared');
    return new Metadata(database, made);
  }

  /** @throws NotFound */
  stat(key: string): Promise<Entry> {
    return this.#database.read((statements) => find(statements, key));
  }

  has(name: string): Promise<boolean> {
    return this.#database.read((statements) => statements.committed.get(name) !== undefined);
  }

  /** The keys of active snapshots and views that begin so. @param prefix ASCII, not empty */
  keys(prefix: string): Promise<string[]> {
    return this.#database.read((statements) => keysIn(statements.keys, prefix));
  }

  /** @throws NotFound */
  chain(key: string): Promise<Chain> {
    return this.#database.read((statements) => chainOf(statements, key));
  }

  walk(filter: SnapshotFilter): Promise<SnapshotInfo[]> {
    const parameters = {
      name: filter.name ?? null,
      parent: filter.parent ?? null,
      kind: filter.kind ?? null,
      labels: JSON.stringify(filter.labels ?? {}),
    };
    return this.#database.read((statements) => statements.walk.all(parameters).map((row) => entry(row).info));
  }

  /** Whether `create` would be refused now; nothing is written. @throws as `create` */
  check(snapshot: NewSnapshot): Promise<Entry | undefined> {
    return this.#database.read((statements) => checkNew(statements, snapshot));
  }

  /**
   * Records a new snapshot; `place` puts its directory where its number says.
   * @throws AlreadyExists, NotFound (no such parent), InvalidArgument (the parent is not committed, the key is empty)
   */
  create(
    snapshot: NewSnapshot,
    place: (id: number, parentId: number | undefined, onRollback: OnRollback) => void,
  ): Promise<Chain> {
    return this.#database.write((statements, onRollback) => {
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
   * Makes the active snapshot `key` the committed one `name`; returns its number. `rebase` is called when it gets its
   * parent by this.
   * @throws AlreadyExists, NotFound, InvalidArgument
   */
  commit(
    name: string,
    key: string,
    options: CommitOptions,
    rebase: (id: number, parentId: number) => void,
  ): Promise<number> {
    return this.#database.write((statements) => {
      refuseEmpty(name, 'name');
      if (statements.byKey.get({ key: name }) !== undefined) throw taken(name);
      const { id, info, parentId } = find(statements, key);
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
      const labels = JSON.stringify(options.labels ?? {});
      statements.commit.run({ id, name, parent: parent ?? null, labels, now: Date.now() });
      return id;
    });
  }

  /** Forgets a snapshot; returns its number. @throws NotFound, FailedPrecondition (it has children) */
  remove(key: string): Promise<number> {
    return this.#database.write((statements) => {
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

  /** @throws NotFound, InvalidArgument (a field that is not a label) */
  update(key: string, labels: Labels, fields: readonly string[]): Promise<SnapshotInfo> {
    return this.#database.write((statements) => {
      const { id, info } = find(statements, key);
      const updated = { ...info, labels: mergeLabels(info, labels, fields), updated: new Date() };
      statements.relabel.run({ id, labels: JSON.stringify(updated.labels), now: updated.updated.getTime() });
      return updated;
    });
  }

  /** Keeps what a committed snapshot takes; says whether it is still there. */
  recordUsage(id: number, usage: Usage): Promise<boolean> {
    const { bytes, inodes } = usage;
    return this.#database.write((statements) => Number(statements.recordUsage.run({ id, bytes, inodes }).changes) > 0);
  }

  /** Calls `body` with every snapshot there is, while no process can add or remove one. */
  exclusively<T>(body: (kinds: ReadonlyMap<number, SnapshotKind>, forget: (id: number) => void) => T): Promise<T> {
    return this.#database.write((statements) => {
      const kinds = new Map(statements.ids.all().map((row) => [number(row.id), kind(row.kind)]));
      return body(kinds, (id) => statements.remove.run({ id }));
    });
  }

  close(): void {
    this.#database.close();
  }
}

function find(statements: Statements, key: string): Entry {
  const row = statements.byKey.get({ key });
  if (row === undefined) throw new SnapshotError('NotFound', `there is no snapshot ${key}`);
  return entry(row);
}

function findParent(statements: Statements, name: string): Entry {
  const parent = find(statements, name);
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

/** All labels, or those that `fields` names; one that is named and not given is removed. */
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

/**
 * Looks up names in metadata that another connection writes.
 *
 * A reader of a write-ahead log waits for no writer: it takes a lock in shared memory, sees whether anything was committed
 * since it looked last, and only then reads pages again, which whoever wrote them has left in memory. It is open for
 * reading only, so that it never writes the log back into the file, nor waits for who does.
 */
export class NameReader {
  readonly #file: DatabaseSync;
  readonly #committed: StatementSync;
  readonly #keys: StatementSync;

  /** @throws Error of SQLite, as `has` */
  constructor(path: string) {
    // it waits for nobody: who else locks the file is recovering it after a crash
    this.#file = new DatabaseSync(path, { readOnly: true, timeout: 0 });
    this.#committed = this.#file.prepare(STATEMENTS.committed);
    this.#keys = this.#file.prepare(STATEMENTS.keys);
  }

  has(name: string): boolean {
    return this.#committed.get(name) !== undefined;
  }

  keys(prefix: string): string[] {
    return keysIn(this.#keys, prefix);
  }

  close(): void {
    if (this.#file.isOpen) this.#file.close();
  }
}
