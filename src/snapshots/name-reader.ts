import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { LruCache } from '../lru-cache.ts';
import { databaseIdentity } from './admission.ts';
import { SnapshotDirectories } from './directories.ts';
import { metadataFile, OpenedStore } from './identity.ts';
import { type ImageKey, timeOf, usedKey } from './images.ts';
import { mountOf } from './later-sync.ts';
import { type Layout, viewMounts } from './layout.ts';
import { chainOf } from './metadata.ts';
import type { Mount } from './snapshotter.ts';
import { isUsable, keysIn, number, STATEMENTS, usableThrough } from './statements.ts';

/** Maximum number of snapshots whose mounts are kept. */
const MOST_MOUNTS = 1000;

/** The mounts of a snapshot, and the version of the database when they were read last. */
interface KnownMounts {
  version: number;
  mounts: readonly Mount[];
}

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
  readonly #chain: StatementSync;
  readonly #version: StatementSync;
  readonly #directories: SnapshotDirectories;
  readonly #mounts = new LruCache<KnownMounts>(MOST_MOUNTS);

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
    this.#chain = this.#file.prepare(STATEMENTS.chain);
    this.#version = this.#file.prepare('PRAGMA data_version');
    this.#directories = new SnapshotDirectories(root, this.#opened.descriptor);
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

  /**
   * As Snapshotter.viewMounts. The store is only checked if something has changed. The same array is returned until the mounts change.
   * @returns `undefined` if there is no such snapshot
   */
  viewMounts(name: string, layout: Layout): readonly Mount[] | undefined {
    // SQLite changes this number after each commit of another connection; reading a chain of 100 layers takes 50 times as long
    const version = number(this.#version.get()?.data_version);
    const known = this.#mounts.get(name);
    if (known?.version === version) return known.mounts;
    if (!this.has(name)) return undefined;
    const mounts = viewMounts(layout, chainOf(this.#chain.all({ key: name }), name), this.#directories);
    if (known === undefined) this.#mounts.add(name, { version, mounts });
    else {
      known.version = version;
      if (JSON.stringify(known.mounts) !== JSON.stringify(mounts)) known.mounts = mounts;
    }
    return known?.mounts ?? mounts;
  }

  close(): void {
    if (!this.#file.isOpen) return;
    this.#file.close();
    this.#opened.close();
  }
}
