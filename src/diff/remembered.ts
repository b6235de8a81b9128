import { UnpackError } from '../errors.ts';

/** Bytes that a path takes beside its own. */
const PATH_OVERHEAD = 64;

/**
 * Counts the memory, roughly, that goes into what must be known until a layer's last entry: the times of directories, the
 * names of what is deleted or was made by need. The paths of an archive made for the purpose, 4,096 bytes each and a few
 * bytes compressed, would take any amount.
 */
export class Remembered {
  private left: number;
  private readonly limit: number;

  /** @param limit in bytes; 512 MiB are enough for four million directories */
  constructor(limit: number) {
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
      `its directories and deletions take more than ${this.limit} bytes to keep track of, the limit (UNPACK_MAX_LAYER_MEMORY)`,
    );
  }
}
