import type { SnapshotDirectories } from './directories.ts';
import { type Entry, find, lookUp } from './entries.ts';
import { hasChildren, type Metadata } from './metadata.ts';
import type { Parents } from './parents.ts';
import { readRecord, writeRecord } from './records.ts';
import { isSnapshotError } from './snapshotter.ts';
import { isUsable, number } from './statements.ts';
import type { Transactions } from './transactions.ts';

/** The claims on snapshots that were adopted, in the database and in the records. SnapshotStore is the only user. */
export class Claims {
  readonly #transactions: Transactions;
  readonly #metadata: Metadata;
  readonly #directories: SnapshotDirectories;
  readonly #parents: Parents;

  constructor(transactions: Transactions, metadata: Metadata, directories: SnapshotDirectories, parents: Parents) {
    this.#transactions = transactions;
    this.#metadata = metadata;
    this.#directories = directories;
    this.#parents = parents;
  }

  /** As `OwnStore.adopt`. */
  async adopt(name: string, parent: string): Promise<boolean> {
    const known = await this.#usable(name, parent);
    if (known === undefined) return false;
    try {
      await this.#parents.requireWhole(known);
    } catch (error) {
      if (isSnapshotError(error, 'NotFound')) return false;
      throw error;
    }
    // the parent of a claimed snapshot is claimed, so nothing is left to write
    if (known.info.claim !== undefined) return true;
    const claimed = await this.#transactions.write((statements) => {
      if (lookUp(statements.byKey, name, this.#metadata.through)?.id !== known.id) return undefined;
      return statements.adopt.all({ key: name }).map((row) => number(row.id));
    });
    for (const id of claimed ?? []) await this.#record(id, 'adopted');
    return claimed !== undefined;
  }

  /** Ends the claim on an adopted snapshot. @throws NotFound, FailedPrecondition */
  async release(name: string): Promise<void> {
    const id = await this.#transactions.write((statements) => {
      const { id } = find(statements.byKey, name, this.#metadata.through);
      const children = number(statements.claimedChildren.get({ id })?.count);
      if (children > 0) throw hasChildren(name, children);
      statements.release.run({ id });
      return id;
    });
    await this.#record(id, undefined);
  }

  #usable(name: string, parent: string): Promise<Entry | undefined> {
    const { through } = this.#metadata;
    return this.#transactions.readTogether((statements) => {
      const found = lookUp(statements.byKey, name, through);
      return found?.info.parent === parent && isUsable(statements.committed, name, through) ? found : undefined;
    });
  }

  /** Writes the claim into the record beside the files. Only needed if the database is lost. */
  async #record(id: number, claim: 'adopted' | undefined): Promise<void> {
    const directory = this.#directories.own(id);
    const record = readRecord(directory, 'committed');
    if (record !== undefined) await writeRecord(directory, { ...record, claim }, true);
  }
}
