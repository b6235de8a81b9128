import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { keysIn } from './rows.ts';
import { STATEMENTS } from './schema.ts';

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
