import { now } from '../system/clock.ts';
import { isUnfinished } from './admission.ts';
import type { OnRollback } from './database.ts';
import { type Chain, chainOf, type Entry, entry, find, lookUp } from './entries.ts';
import { USED_STEP } from './images.ts';
import { ownerOf } from './records.ts';
import type { Traits } from './schema.ts';
import {
  type BrokenReason,
  type Claim,
  type CommitOptions,
  EXTRACTION,
  isWhole,
  SnapshotError,
  type SnapshotFilter,
  type SnapshotInfo,
  type SnapshotKind,
  type Usage,
} from './snapshotter.ts';
import { isUsable, keysIn, kind, number, usableThrough } from './statements.ts';
import type { Statements, Transactions } from './transactions.ts';

export interface NewSnapshot {
  readonly key: string;
  readonly kind: 'active' | 'view';
  /** `""` for none. */
  readonly parent: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly claim?: Claim | undefined;
}

/** Which snapshots a process may use. */
export interface Demand {
  /** All files must be on disk. */
  readonly durable: boolean;
  /** The mount through which this process uses the store, as `mountOf` names it. */
  readonly mount: string;
}

/** What `commit` needs to know of a snapshot. */
export interface Committing {
  /** The number of the snapshot that the caller has recorded as committed in its directory. */
  readonly recorded: number;
  /** Whether a later sync by this process would prove that the files are on disk. */
  readonly canProve: () => boolean;
  /** Called if the commit gives the snapshot a parent. */
  readonly rebase: (id: number, parentId: number) => void;
}

type Labels = Readonly<Record<string, string>>;

/**
 * Records which snapshots exist. SnapshotStore is its only user. Each change is one transaction. If directories must
 * change together with a row, the caller passes a function that runs inside the transaction, before the commit.
 */
export class Metadata {
  readonly #transactions: Transactions;
  readonly #demand: Demand;
  readonly #through: string | null;

  constructor(transactions: Transactions, demand: Demand) {
    this.#transactions = transactions;
    this.#demand = demand;
    this.#through = usableThrough(demand);
  }

  /** The parameter of the statements that select usable snapshots. */
  get through(): string | null {
    return this.#through;
  }

  /** Whether all files of a snapshot must be on disk. */
  get durable(): boolean {
    return this.#demand.durable;
  }

  /** A descriptor of ROOT/snapshots, open as long as the store. */
  get descriptor(): number {
    return this.#transactions.descriptor;
  }

  /** The highest number of a snapshot when the descriptor was open already. */
  get last(): number {
    return this.#transactions.last;
  }

  /** The properties that the store was made with. */
  get made(): Traits {
    return this.#transactions.made;
  }

  /** The ID of the store, which is in its directories too. */
  get identity(): string {
    return this.#transactions.identity;
  }

  /** Whether nothing may be written. */
  get readOnly(): boolean {
    return this.#transactions.readOnly;
  }

  /** @throws NotFound */
  stat(key: string): Promise<Entry> {
    return this.#transactions.read((statements) => find(statements.byKey, key, this.#through));
  }

  /** The claim on the snapshot `key`; `undefined` also if there is no snapshot. */
  claimOn(key: string): Promise<Claim | undefined> {
    return this.#transactions.read((statements) => lookUp(statements.byKey, key, this.#through)?.info.claim);
  }

  has(name: string): Promise<boolean> {
    return this.#transactions.read((statements) => isUsable(statements.committed, name, this.#through));
  }

  /** The chain of a committed snapshot that can be used; `undefined` if there is none. */
  usableChain(name: string): Promise<Chain | undefined> {
    return this.#transactions.readTogether((statements) =>
      isUsable(statements.committed, name, this.#through)
        ? chainOf(statements.chain.all({ key: name }), name)
        : undefined,
    );
  }

  /** The numbers of the snapshots in a chain whose files are not known to be on disk. @throws NotFound */
  unsynced(name: string): Promise<number[]> {
    return this.#transactions.read((statements) => {
      const chain = statements.chainSynced.all({ key: name });
      if (chain.length === 0) throw new SnapshotError('NotFound', `there is no snapshot ${name}`);
      return chain.filter(({ synced }) => synced === 0).map(({ id }) => number(id));
    });
  }

  /** The keys of active snapshots and views that begin with `prefix`. @param prefix ASCII, not empty */
  keys(prefix: string): Promise<string[]> {
    return this.#transactions.read((statements) => keysIn(statements.keys, prefix));
  }

  /** @throws NotFound */
  chain(key: string): Promise<Chain> {
    return this.#transactions.read((statements) => chainOf(statements.chain.all({ key }), key));
  }

  walk(filter: SnapshotFilter): Promise<Entry[]> {
    const parameters = {
      name: filter.name ?? null,
      parent: filter.parent ?? null,
      kind: filter.kind ?? null,
      labels: JSON.stringify(filter.labels ?? {}),
      mount: this.#through,
    };
    return this.#transactions.read((statements) => statements.walk.all(parameters).map((row) => entry(row)));
  }

  /** Throws if `create` would be refused now; writes nothing. @returns the parent @throws as `create` */
  check(snapshot: NewSnapshot): Promise<Entry | undefined> {
    return this.#transactions.read((statements) => this.#checkNew(statements, snapshot));
  }

  /**
   * Inserts a new snapshot. The images whose top snapshot is the parent are used now, unless a layer is being unpacked.
   * @param place renames the directory of the snapshot to its number
   * @throws AlreadyExists, NotFound (no such parent), InvalidArgument (the parent is not committed, the key is empty)
   */
  create(
    snapshot: NewSnapshot,
    place: (id: number, parentId: number | undefined, onRollback: OnRollback) => void,
  ): Promise<Chain> {
    return this.#transactions.write((statements, onRollback) => {
      const parent = this.#checkNew(statements, snapshot);
      const time = now();
      const { lastInsertRowid } = statements.insert.run({
        key: snapshot.key,
        kind: snapshot.kind,
        parent: parent?.id ?? null,
        labels: JSON.stringify(snapshot.labels),
        claim: snapshot.claim ?? null,
        ...time,
      });
      if (!snapshot.key.startsWith(EXTRACTION)) {
        statements.useImages.run({ chain: snapshot.parent, now: time.milliseconds, step: USED_STEP });
      }
      place(Number(lastInsertRowid), parent?.id, onRollback);
      return chainOf(statements.chain.all({ key: snapshot.key }), snapshot.key);
    });
  }

  /**
   * Makes the active snapshot `key` the committed snapshot `name`. If a snapshot of that name is there and cannot be used for
   * a reason of its own, its children stand on the new one, and its row is deleted.
   * @returns the snapshot that was replaced
   * @throws AlreadyExists, NotFound, InvalidArgument
   */
  commit(
    name: string,
    key: string,
    options: Omit<CommitOptions, 'usage'> & { readonly size: Usage | undefined },
    committing: Committing,
  ): Promise<Entry | undefined> {
    return this.#transactions.write((statements) => {
      refuseEmpty(name, 'name');
      const replaced = lookUp(statements.byKey, name, this.#through);
      if (replaced !== undefined && isWhole(replaced.info)) throw taken(name);
      const { id, info, parentId } = find(statements.byKey, key, this.#through);
      if (id !== committing.recorded)
        throw new SnapshotError('NotFound', `snapshot ${key} was replaced during its commit`);
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
        parent = this.#findParent(statements, parentName).id;
        committing.rebase(id, parent);
      }
      if (replaced !== undefined) {
        statements.adoptChildren.run({ id, broken: replaced.id });
        statements.remove.run({ id: replaced.id });
      }
      const { bytes = null, inodes = null } = options.size ?? {};
      const synced = options.synced === true;
      statements.commit.run({
        id,
        name,
        parent: parent ?? null,
        labels: JSON.stringify(options.labels ?? {}),
        bytes,
        inodes,
        ...now(),
        claim: replaced?.info.claim ?? null,
        synced: synced ? 1 : 0,
        writtenOn: !synced && committing.canProve() ? this.#demand.mount : null,
      });
      if (replaced !== undefined) statements.spreadBroken.run();
      return replaced;
    });
  }

  /** Records that these snapshots are on disk. */
  markSynced(ids: readonly number[]): Promise<void> {
    return this.#transactions.write((statements) => {
      for (const id of ids) statements.markSynced.run({ id });
    });
  }

  /** Makes every snapshot that is not synced unusable. @returns the highest number of a snapshot so far */
  suspectAll(): Promise<number> {
    return this.#transactions.write((statements) => {
      statements.suspectAll.run();
      return number(statements.last.get()?.seq ?? 0);
    });
  }

  /**
   * Deletes the row of a snapshot.
   * @param allow throws if the snapshot is needed
   * @returns its number
   * @throws NotFound, FailedPrecondition (it has children), and as `allow`
   */
  remove(key: string, allow: (entry: Entry) => void): Promise<number> {
    return this.#transactions.write((statements) => {
      const found = find(statements.byKey, key, this.#through);
      const { id } = found;
      const children = number(statements.children.get({ id })?.count);
      if (children > 0) throw hasChildren(key, children);
      allow(found);
      statements.remove.run({ id });
      return id;
    });
  }

  /** @returns the changed snapshot @throws NotFound, InvalidArgument (a field that is not a label) */
  update(key: string, labels: Labels, fields: readonly string[]): Promise<Entry> {
    return this.#transactions.write((statements) => {
      const found = find(statements.byKey, key, this.#through);
      const { id, info } = found;
      const merged = mergeLabels(info, labels, fields);
      const time = now();
      statements.relabel.run({ id, labels: JSON.stringify(merged), ...time });
      const nanoseconds = { created: info.nanoseconds?.created ?? 0, updated: time.nanoseconds };
      return { ...found, info: { ...info, labels: merged, updated: new Date(time.milliseconds), nanoseconds } };
    });
  }

  /** Marks a snapshot as broken, and all that stand on it. */
  markBroken(id: number, broken: Exclude<BrokenReason, 'parent'>): Promise<void> {
    return this.#transactions.write((statements) => {
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
    return this.#transactions.write((statements) => {
      const kinds = new Map(statements.rows.all().map((row) => [number(row.id), kind(row.kind)]));
      const last = number(statements.last.get()?.seq ?? 0);
      const isLeft = (id: number, path: string) =>
        !kinds.has(id) && (id <= last ? ownerOf(path) === this.identity : isUnfinished(path, this.identity));
      return body(kinds, isLeft);
    });
  }

  close(): void {
    this.#transactions.close();
  }

  #findParent(statements: Statements, name: string): Entry {
    const parent = find(statements.byKey, name, this.#through);
    const { kind, broken } = parent.info;
    if (kind !== 'committed')
      throw new SnapshotError('InvalidArgument', `snapshot ${name} can't be a parent: it is ${aKind(kind)}`);
    if (broken !== undefined) throw new SnapshotError('NotFound', `snapshot ${name} is broken`);
    if (!isUsable(statements.committed, name, this.#through)) {
      const isOfContainerd = parent.info.claim === 'made';
      const advice = isOfContainerd ? 'remove its image in containerd and pull it again' : 'let a job unpack it again';
      throw new SnapshotError(
        'NotFound',
        `snapshot ${name} is suspect: it was not synced, or one below it, so files may be lost; ${advice}`,
      );
    }
    return parent;
  }

  #checkNew(statements: Statements, snapshot: NewSnapshot): Entry | undefined {
    refuseEmpty(snapshot.key, 'key');
    const parent = snapshot.parent === '' ? undefined : this.#findParent(statements, snapshot.parent);
    if (lookUp(statements.byKey, snapshot.key, this.#through) !== undefined) throw taken(snapshot.key);
    return parent;
  }
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

export function hasChildren(key: string, count: number): SnapshotError {
  const others = count === 1 ? 'another snapshot stands' : `${count} other snapshots stand`;
  return new SnapshotError('FailedPrecondition', `snapshot ${key} can't be removed: ${others} on it`);
}

function taken(key: string): SnapshotError {
  return new SnapshotError('AlreadyExists', `there is a snapshot ${key} already`);
}

function aKind(kind: SnapshotKind): string {
  return kind === 'active' ? 'active' : kind === 'view' ? 'a view' : 'committed';
}
