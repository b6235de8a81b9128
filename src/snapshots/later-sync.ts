import { readFileSync } from 'node:fs';
import { syncFileSystem, uniqueMountId } from '../system/files.ts';

/**
 * What a process can say about snapshots that were committed without a sync: through which mount it sees them, and, after a
 * later sync, that they are on disk. SnapshotStore is the user of the class, open.ts and NameReader of the function.
 */

/**
 * The mount through which this process uses a store. Files that were written through it are there as long as it is: the
 * kernel has them in memory, if not on disk. Another mount, also one of the same file system, has another name.
 * @param descriptor of ROOT/snapshots
 * @param session a random ID of this opening of the store, for kernels without unique mount IDs: then only the process that
 *   wrote the files knows that its descriptor of the file system has been open since then
 */
export function mountOf(descriptor: number, session: string): string {
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return `${boot} ${uniqueMountId(descriptor) ?? session}`;
}

/** When this machine has started, in milliseconds since 1970; `undefined` if /proc is not mounted. */
export function bootTime(): number | undefined {
  try {
    const [, seconds] = /^btime (\d+)$/m.exec(readFileSync('/proc/stat', 'utf8')) ?? [];
    return seconds === undefined ? undefined : Number(seconds) * 1000;
  } catch {
    return undefined;
  }
}

/** How long after the first commit without a sync the background sync starts, in milliseconds. */
const DELAY = 10_000;

/** The records that a later sync changes. */
export interface SyncRecords {
  /** Records that these snapshots are on disk. */
  synced(ids: readonly number[]): Promise<void>;
  /** Records that any snapshot that is not synced may be lost. @returns the highest number of a snapshot so far */
  lost(): Promise<number>;
}

/**
 * Syncs snapshots that this process has committed without a sync.
 *
 * The kernel reports a lost write once, to the descriptors that were open at that time. So only a descriptor that was open
 * before a snapshot was begun can prove that its files are on disk: this process can prove it for snapshots with higher
 * numbers than the last one at the opening. After a loss, it can prove it for those that were begun after the report.
 */
export class LaterSync {
  readonly #descriptor: number;
  readonly #records: SyncRecords;
  readonly #pending = new Set<number>();
  /** The highest number of a snapshot for which a sync of this process proves nothing. */
  #unproven: number;
  /** A loss of writes that could not be recorded yet, because the database cannot be written either. */
  #hasUnrecordedLoss = false;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;
  #running: Promise<void> | undefined;

  /**
   * @param descriptor of ROOT/snapshots; it stays open
   * @param last the highest number of a snapshot when the descriptor was open already
   */
  constructor(descriptor: number, last: number, records: SyncRecords) {
    this.#descriptor = descriptor;
    this.#unproven = last;
    this.#records = records;
  }

  /** Whether a sync by this process proves that the files of this snapshot are on disk. */
  canProve(id: number): boolean {
    return id > this.#unproven;
  }

  /** Whether this process has committed the snapshot and will sync it. */
  has(id: number): boolean {
    return this.#pending.has(id);
  }

  /** Call it after the commit of a snapshot that is not synced. Starts the background sync. */
  add(id: number): void {
    if (!this.canProve(id)) return;
    this.#pending.add(id);
    this.#syncSoon();
  }

  /**
   * Syncs all snapshots that were added, and records it. A loss of writes is recorded too.
   * @throws errors of the records
   */
  async sync(): Promise<void> {
    // a sync that already runs may have begun before the last snapshot was written
    while (this.#running !== undefined) await this.#running.catch(() => {});
    if (this.#pending.size === 0 && !this.#hasUnrecordedLoss) return;
    this.#running = this.#round().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  /** Stops the background sync. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#pending.clear();
    await this.#running?.catch(() => {});
  }

  #syncSoon(): void {
    if (this.#isClosed) return;
    // errors are tried again, and nobody waits for this sync
    this.#timer ??= setTimeout(() => this.sync().catch(() => this.#syncSoon()), DELAY).unref();
  }

  async #round(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const ids = [...this.#pending];
    try {
      await syncFileSystem(this.#descriptor);
    } catch {
      this.#pending.clear();
      this.#unproven = Number.POSITIVE_INFINITY; // until the number of the last snapshot is known
      this.#hasUnrecordedLoss = true;
    }
    if (this.#hasUnrecordedLoss) {
      this.#unproven = await this.#records.lost();
      this.#hasUnrecordedLoss = false;
      return;
    }
    await this.#records.synced(ids);
    for (const id of ids) this.#pending.delete(id);
  }
}
