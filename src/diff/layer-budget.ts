import { UnpackError } from '../errors.ts';

/**
 * Bounds on the time and the memory of one layer. `LayerWriter` hands both to the classes of this folder: the checkpoint
 * to every loop whose length the archive decides, the memory budget to everything that is kept until the last entry.
 */

/**
 * Called at every step of such a loop: entries, steps of a path's resolution, names in a tree that is removed, directories
 * that get their times. It throws when the layer is to be aborted. It runs millions of times, so it must be cheap.
 */
export type Checkpoint = () => void;

export const NO_CHECKPOINT: Checkpoint = () => {};

/** Bytes that a path takes in a map beside its own. */
const PATH_OVERHEAD = 64;

/**
 * Counts, roughly, the memory that is kept until a layer's last entry: times of directories, implied directories, deleted
 * paths. Without a limit a crafted archive could take any amount: its paths have 4,096 bytes each and compress to a few.
 */
export class MemoryBudget {
  private left: number;
  private readonly limit: number;

  /** @param limit in bytes; 512 MiB are enough for four million directories */
  constructor(limit: number) {
    this.limit = limit;
    this.left = limit;
  }

  /**
   * Charges a path that goes into a set or a map, and `more` bytes that are stored with it.
   * @returns the path
   * @throws UnpackError LIMIT_EXCEEDED
   */
  charge(path: string, more = 0): string {
    this.left -= path.length + PATH_OVERHEAD + more;
    if (this.left >= 0) return path;
    throw new UnpackError(
      'LIMIT_EXCEEDED',
      `its directories and deletions need more than ${this.limit} bytes of memory, the limit (UNPACK_MAX_LAYER_MEMORY)`,
    );
  }
}
