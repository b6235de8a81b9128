import { type DiffId, hexOf } from '../oci/digest.ts';
import { DATA_START, superblockPage } from './format.ts';
import { ImageFile } from './image-file.ts';
import { writeIndex } from './index-writer.ts';
import type { TreeContents } from './tree-contents.ts';

export interface LayerFileEnd {
  readonly diffId: DiffId;
  /** Whether the content must be on disk when `finish` returns. */
  readonly sync: boolean;
  /** Called for every file and directory. It throws if the layer must be aborted. */
  readonly checkpoint: () => void;
}

/**
 * A layer as one file: an EROFS image in which the tar lies as it is. The tar is written while it streams through, then what
 * makes an image of it, and the superblock last, so that an incomplete file cannot be mounted.
 *
 *     open → open       by `write`, for each piece of the tar in order
 *     open → finished   by `finish`
 *     any → closed      by disposal. The caller deletes or renames the file
 */
export class LayerFile implements Disposable {
  readonly #file: ImageFile;
  #tarBytes = 0;

  /** @param path of a file that does not exist @throws system errors */
  constructor(path: string) {
    this.#file = new ImageFile(path);
  }

  /** Writes the next bytes of the tar. @throws system errors */
  write(bytes: Buffer): void {
    this.#file.writeAt(bytes, DATA_START + this.#tarBytes);
    this.#tarBytes += bytes.length;
  }

  /**
   * Writes the index and the superblock.
   * @returns the size of the file in bytes
   * @throws UnpackError LIMIT_EXCEEDED; system errors; the errors of `checkpoint`
   */
  finish(tree: TreeContents, { diffId, sync, checkpoint }: LayerFileEnd): number {
    let end = DATA_START + this.#tarBytes;
    const superblock = writeIndex(tree, {
      tarBytes: this.#tarBytes,
      checkpoint,
      write: (bytes) => {
        this.#file.writeAt(bytes, end);
        end += bytes.length;
      },
      read: (offset, into) => this.#file.readAt(DATA_START + offset, into),
    });
    this.#file.writeAt(superblockPage({ ...superblock, uuid: uuidOf(diffId) }), 0);
    if (sync) this.#file.sync();
    return end;
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

/** The UUID of an image: the first bytes of the DiffID, so that the same layer gives the same bytes. */
export function uuidOf(diffId: DiffId): Buffer {
  return Buffer.from(hexOf(diffId), 'hex').subarray(0, 16);
}
