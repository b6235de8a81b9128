import type { SnapshotDirectories } from './directories.ts';
import type { Metadata } from './metadata.ts';
import { readRecord, removeRecord, type SnapshotRecord, writeRecord } from './records.ts';
import { settle } from './tree.ts';

/**
 * The records of commits in the directories (`committed.json`). One is on disk before its row says that the snapshot is
 * committed, so that a lost database can be rebuilt. SnapshotStore is the only user.
 */
export class CommitRecords {
  readonly #metadata: Metadata;
  readonly #directories: SnapshotDirectories;

  constructor(metadata: Metadata, directories: SnapshotDirectories) {
    this.#metadata = metadata;
    this.#directories = directories;
  }

  /**
   * Call it before the commit. A committed snapshot must keep its directory and its record after a loss of power. The writer
   * of the files flushes their content if UNPACK_DURABLE asks for it.
   */
  async add(id: number, record: Omit<SnapshotRecord, 'kind'>): Promise<void> {
    const written = writeRecord(this.#directories.own(id), { kind: 'committed', ...record }, true);
    await settle([written, this.#directories.syncNames()]);
  }

  /** Removes the record of a commit that has failed, unless another process has committed the snapshot meanwhile. */
  async withdraw(id: number): Promise<void> {
    const active = await this.#metadata.exclusively((kinds) => kinds.get(id) === 'active');
    if (active) await removeRecord(this.#directories.own(id), 'committed');
  }

  /** Adds to the records that the files of these snapshots are on disk. Only needed if the database is lost. */
  async markSynced(ids: readonly number[]): Promise<void> {
    for (const id of ids) {
      const directory = this.#directories.own(id);
      const record = readRecord(directory, 'committed');
      if (record !== undefined) await writeRecord(directory, { ...record, synced: true }, true);
    }
  }
}
