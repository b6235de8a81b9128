import type { Below } from '../diff/target.ts';
import { toUnpackError } from '../errors.ts';
import { isSnapshotError, type Mount, type Snapshotter } from '../snapshots/snapshotter.ts';
import type { Log } from './applier.ts';

interface Snapshot {
  readonly key: string;
  readonly mounts: readonly Mount[];
  /** What its mounts show of the layers below. */
  readonly below: Below;
  /** A sentence for the log if the snapshot is removed before it is committed; none if it is a view. */
  readonly unfinished?: string;
}

/**
 * A snapshot that exists while a layer is made: the active one that the layer is written into, or a view of its parent.
 * `apply-layers` prepares it. Disposal removes it unless it was committed; a failure is only logged.
 */
export class TemporarySnapshot implements AsyncDisposable {
  readonly key: string;
  readonly mounts: readonly Mount[];
  readonly below: Below;
  isCommitted = false;
  readonly #unfinished: string | undefined;
  readonly #snapshotter: Snapshotter;
  readonly #log: Log | undefined;

  constructor({ key, mounts, below, unfinished }: Snapshot, snapshotter: Snapshotter, log: Log | undefined) {
    this.key = key;
    this.mounts = mounts;
    this.below = below;
    this.#unfinished = unfinished;
    this.#snapshotter = snapshotter;
    this.#log = log;
  }

  /** Whether a layer below was replaced since the snapshot was prepared, because its mounts have changed. */
  async hasMoved(): Promise<boolean> {
    const now = await this.#snapshotter.mounts(this.key);
    return JSON.stringify(now) !== JSON.stringify(this.mounts);
  }

  /** Whether somebody else has removed it. `false` if the store cannot be asked. */
  async isRemoved(): Promise<boolean> {
    try {
      await this.#snapshotter.mounts(this.key);
      return false;
    } catch (error) {
      return isSnapshotError(error, 'NotFound');
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.isCommitted) return;
    const { key } = this;
    if (this.#unfinished !== undefined) this.#log?.('info', this.#unfinished, { key });
    try {
      await this.#snapshotter.remove(key);
    } catch (error) {
      if (isSnapshotError(error, 'NotFound')) return;
      const { message } = toUnpackError(error);
      this.#log?.('warn', `could not remove the extraction snapshot ${key}: ${message}`, { key });
    }
  }
}
