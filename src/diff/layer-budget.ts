import { UnpackError } from '../errors.ts';

/**
 * Bounds on the time and the memory of one layer. `LayerWriter` passes both to the classes of this folder. Every loop
 * whose length depends on the archive calls the checkpoint. Everything that is kept until the last entry is charged to
 * the memory budget.
 */

/**
 * Called at every step of such a loop, for example for each entry, and for each name in a tree that is removed. It
 * throws if the layer must be aborted. It must be fast, because it is called millions of times.
 */
export type Checkpoint = () => void;

export const NO_CHECKPOINT: Checkpoint = () => {};

/** Number of bytes of memory for a path in a map, in addition to the bytes of the path. */
const PATH_OVERHEAD = 64;

/**
 * Counts approximately the memory that is used until a layer's last entry: times of directories, implied directories,
 * deleted paths. The limit is needed, because a small malicious archive could use any amount of memory: paths of 4,096
 * bytes compress to a few bytes.
 */
export class MemoryBudget {
  private left: number;
  private readonly limit: number;

  /** @param limit maximum memory in bytes; 512 MiB are enough for four million directories */
  constructor(limit: number) {
    this.limit = limit;
    this.left = limit;
  }

  /**
   * Charges a path that is added to a set or a map, and `more` bytes that are stored with the path.
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
