import { UnpackError } from '../errors.ts';
import { DATA_START } from './format.ts';
import { readWhole } from './image-file.ts';
import { type ImagesBelow, IndexedTar, type IndexedTarOptions, type TarTree } from './indexed-tar.ts';

/** Size of the pieces in which the tar is read, in bytes. */
const PIECE = 512 * 1024;
/** A pass can find default access control lists below, which files inherit in the next one. */
const MAX_PASSES = 3;

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
  let findings: IndexedTarOptions['findings'];
  for (let pass = 0; pass < MAX_PASSES; pass++) {
    using tar = new IndexedTar({ ...options, below, findings });
    const piece = Buffer.allocUnsafeSlow(Math.min(PIECE, tarBytes));
    for (let at = 0; at < tarBytes; at += piece.length) {
      options.checkpoint();
      const part = piece.subarray(0, Math.min(piece.length, tarBytes - at));
      readWhole(layer, DATA_START + at, part);
      tar.write(part);
    }
    const read = tar.finish();
    if (!read.written.needsSecondPass) return read;
    ({ findings } = read.written);
  }
  throw new UnpackError(
    'LAYER_UNSAFE',
    `its directories still change after ${MAX_PASSES} passes; build the image again without deletions of the links that it writes through`,
  );
}
