import { DATA_START } from './format.ts';
import { readWhole } from './image-file.ts';
import { type ImagesBelow, IndexedTar, type IndexedTarOptions, type TarTree } from './indexed-tar.ts';

/** Size of the pieces in which the tar is read, in bytes. */
const PIECE = 512 * 1024;

/**
 * Reads the tar of a layer file again, with the layers below it: directories without an entry get their attributes from there.
 * @param layer an open layer file
 * @param below what the layer stands on
 * @throws UnpackError; system errors; the errors of the checkpoint
 */
export function treeOnParent(
  layer: number,
  tarBytes: number,
  below: ImagesBelow,
  options: Pick<IndexedTarOptions, 'limits' | 'checkpoint'>,
): TarTree {
  const read = (findings: IndexedTarOptions['findings']): TarTree => {
    using tar = new IndexedTar({ ...options, below, findings });
    const piece = Buffer.allocUnsafeSlow(Math.min(PIECE, tarBytes));
    for (let at = 0; at < tarBytes; at += piece.length) {
      options.checkpoint();
      const part = piece.subarray(0, Math.min(piece.length, tarBytes - at));
      readWhole(layer, DATA_START + at, part);
      tar.write(part);
    }
    return tar.finish();
  };
  const first = read(undefined);
  // directories below have default access control lists, which files inherit
  return first.written.needsSecondPass ? read(first.written.findings) : first;
}
