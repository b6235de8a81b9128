import { fstatSync } from 'node:fs';
import { BLOCK, DATA_START, superblockPage } from './format.ts';
import { ImageFile, readWhole } from './image-file.ts';
import { writeIndex } from './index-writer.ts';
import type { TreeContents } from './tree-contents.ts';

export interface IndexFileOptions {
  /** An open layer file, in whose tar the contents of the files lie. */
  readonly layer: number;
  /** 16 bytes. */
  readonly uuid: Uint8Array;
  /** Whether the content must be on disk when the call returns. */
  readonly sync: boolean;
  /** Called for every file and directory. It throws if the work must be aborted. */
  readonly checkpoint: () => void;
}

/**
 * Writes another tree over the content of a layer file: an image with an index only, which is mounted together with the layer
 * file. The layer file stays the same for every image, and directories that it does not name can have the attributes that they
 * have in the layers below.
 * @param path of a file that does not exist
 * @returns the size of the file in bytes
 * @throws UnpackError LIMIT_EXCEEDED; system errors; the errors of `checkpoint`
 */
export function writeIndexFile(path: string, tree: TreeContents, options: IndexFileOptions): number {
  const { layer, uuid, sync, checkpoint } = options;
  using file = new ImageFile(path);
  let end = DATA_START;
  const superblock = writeIndex(tree, {
    tarBytes: 0,
    device: { blocks: Math.ceil(fstatSync(layer).size / BLOCK) },
    checkpoint,
    write: (bytes) => {
      file.writeAt(bytes, end);
      end += bytes.length;
    },
    read: (offset, into) => readWhole(layer, DATA_START + offset, into),
  });
  file.writeAt(superblockPage({ ...superblock, uuid }), 0);
  if (sync) file.sync();
  return end;
}
