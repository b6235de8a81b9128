import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { databaseIdentity } from './admission.ts';
import { metadataFile, OpenedStore } from './identity.ts';
import { type ImageKey, timeOf, usedKey } from './images.ts';
import { mountOf } from './later-sync.ts';
import { isUsable, keysIn, STATEMENTS, usableThrough } from './statements.ts';

/**
 * A read-only connection that looks up names of snapshots and images, for store-thread.ts. Another connection writes the metadata.
 *
 * In write-ahead mode, a reader does not wait for a writer. It takes a lock in shared memory, checks whether anything was
 * committed since its last look, and only then reads pages again. The connection is read-only, so that it never runs or
 * waits for a checkpoint.
 */
export class NameReader {
  readonly #file: DatabaseSync;
  readonly #opened: OpenedStore;
  readonly #committed: StatementSync;
  readonly #keys: StatementSync;
  readonly #imageUsed: StatementSync;
  /** The parameter of the statement that selects usable snapshots. */
  readonly #through: string | null;

  /**
   * @param durable whether all files of a snapshot must be on disk
   * @param session as in StoreOptions
   * @throws Error of SQLite, UnpackError STORE_FAILED; so do all methods here
   */
  constructor(root: string, durable: boolean, session: string) {
    // no waiting: a reader only finds the file locked while another process recovers it after a crash
    this.#file = new DatabaseSync(metadataFile(root), { readOnly: true, timeout: 0 });
    this.#opened = new OpenedStore(root);
    this.#opened.bind();
    this.#opened.expect(databaseIdentity(this.#file).identity);
    this.#through = usableThrough({ durable, mount: mountOf(this.#opened.descriptor, session) });
    this.#committed = this.#file.prepare(STATEMENTS.committed);
    this.#keys = this.#file.prepare(STATEMENTS.keys);
    this.#imageUsed = this.#file.prepare(STATEMENTS.imageUsed);
  }

  has(name: string): boolean {
    this.#opened.check();
    return isUsable(this.#committed, name, this.#through);
  }

  /** Whether all files of a committed snapshot, and of those below it, are on disk. */
  isSynced(name: string): boolean {
    this.#opened.check();
    return isUsable(this.#committed, name, null);
  }

  keys(prefix: string): string[] {
    this.#opened.check();
    return keysIn(this.#keys, prefix);
  }

  /** Does not check the store, which takes three times as long as the lookup. */
  imageUsed(image: ImageKey): Date | undefined {
    return timeOf(this.#imageUsed.get(...usedKey(image)));
  }

  close(): void {
    if (!this.#file.isOpen) return;
    this.#file.close();
    this.#opened.close();
  }
}
