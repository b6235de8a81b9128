import type { DatabaseSync } from 'node:sqlite';
import { admit, databaseIdentity, lastNumber } from './admission.ts';
import { Database, type OnRollback } from './database.ts';
import {
  metadataFile,
  type OpenedStore,
  readStoreRecord,
  refuseWithoutDatabase,
  requireSameStore,
  writeStoreRecord,
} from './identity.ts';
import {
  readTraits,
  refuseOthers,
  requireNewest,
  requireType,
  schemaVersion,
  type Traits,
  type WantedTraits,
} from './schema.ts';
import { number, STATEMENTS } from './statements.ts';

export type Statements = Parameters<Parameters<Database<keyof typeof STATEMENTS>['read']>[0]>[0];

/** What a store was made with, and its ID, which is in its directories too. */
interface StoreFacts {
  readonly made: Traits;
  readonly identity: string;
  /** The highest number of a snapshot when this process had opened ROOT/snapshots. */
  readonly last: number;
}

/**
 * The transactions of an open store. Each one first checks that the database and ROOT/snapshots are still those that this
 * process opened, and belong together. `Metadata` uses them for snapshots, `ImageTable` for images.
 */
export class Transactions implements StoreFacts {
  readonly made: Traits;
  readonly identity: string;
  readonly last: number;
  /** Nothing may be written. */
  readonly readOnly: boolean;
  readonly #database: Database<keyof typeof STATEMENTS>;
  readonly #opened: OpenedStore;

  private constructor(
    database: Database<keyof typeof STATEMENTS>,
    opened: OpenedStore,
    { made, identity, last }: StoreFacts,
    readOnly = false,
  ) {
    this.#database = database;
    this.#opened = opened;
    this.made = made;
    this.identity = identity;
    this.last = last;
    this.readOnly = readOnly;
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
  ): Promise<Transactions> {
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
    const transactions = new Transactions(database, opened, admitted);
    try {
      await transactions.write(({ identity: count }) => {
        const openings = number(count.get()?.openings);
        writeStoreRecord(opened.root, { identity, openings, ...made });
      });
    } catch (error) {
      database.close();
      throw error;
    }
    return transactions;
  }

  /**
   * Opens the database without writing or creating anything. Calls of `write` fail.
   * @throws UnpackError STORE_FAILED as `open`, and for an older schema version
   */
  static async openReadOnly(opened: OpenedStore, lockTimeout: number, type: Traits['type']): Promise<Transactions> {
    const { root } = opened;
    const path = metadataFile(root);
    let facts: StoreFacts | undefined;
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
      facts = { made, identity: known.identity, last: lastNumber(file) };
    };
    const database = await Database.read({ path, lockTimeout }, { accept, statements: STATEMENTS });
    if (facts === undefined) throw new Error('a database was opened without being accepted');
    opened.expect(facts.identity);
    return new Transactions(database, opened, facts, true);
  }

  /** A descriptor of ROOT/snapshots, which was opened before the database. */
  get descriptor(): number {
    return this.#opened.descriptor;
  }

  /** @throws UnpackError STORE_FAILED, and as `Database.read` */
  read<T>(body: (statements: Statements) => T): Promise<T> {
    return this.#database.read((statements) => {
      this.#opened.check();
      return body(statements);
    });
  }

  /** As `read`; all statements see the same state. @throws UnpackError as `read` */
  readTogether<T>(body: (statements: Statements) => T): Promise<T> {
    return this.#database.readTogether((statements) => {
      this.#opened.check();
      return body(statements);
    });
  }

  /** @throws UnpackError STORE_FAILED, and as `Database.write` */
  write<T>(body: (statements: Statements, onRollback: OnRollback) => T): Promise<T> {
    return this.#database.write((statements, onRollback) => {
      this.#opened.check();
      if (statements.identity.get()?.identity !== this.identity) throw this.#opened.replacedDatabase();
      return body(statements, onRollback);
    });
  }

  /** Closes the database and the opened store. */
  close(): void {
    this.#database.close();
    this.#opened.close();
  }
}
