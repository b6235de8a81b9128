import { UnpackError } from '../errors.ts';

/**
 * How much memory, roughly, may go into what must be known until a layer's last entry: the times of directories, the
 * names of what is deleted or was made by need. Enough for four million directories; the paths of an archive made for the
 * purpose, 4,096 bytes each and a few bytes compressed, would take any amount.
 */
const LIMIT = 512 << 20;

/** Bytes that a path takes beside its own. */
const PATH_OVERHEAD = 64;

/** Counts that memory. */
export class Remembered {
  private left: number;
  private readonly limit: number;

  constructor(limit = LIMIT) {
    this.limit = limit;
    this.left = limit;
  }

  /**
   * A path that is kept in a set or a map, together with `more` bytes.
   * @throws UnpackError LIMIT_EXCEEDED
   */
  path(path: string, more = 0): string {
    this.take(path.length + PATH_OVERHEAD + more);
    return path;
  }

  /** @throws UnpackError LIMIT_EXCEEDED */
  private take(bytes: number): void {
    this.left -= bytes;
    if (this.left >= 0) return;
    throw new UnpackError(
      'LIMIT_EXCEEDED',
      `its directories and deletions take more than ${this.limit} bytes to keep track of, the limit`,
    );
  }
}
