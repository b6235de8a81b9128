import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';
import { writeIndexFile } from '../../src/erofs/index-file.ts';
import { IndexedTar } from '../../src/erofs/indexed-tar.ts';
import { LayerFile } from '../../src/erofs/layer-file.ts';
import { treeOnParent } from '../../src/erofs/tree-on-parent.ts';
import { verifyLayerFile } from '../../src/erofs/verify.ts';
import { diffId } from '../../src/oci/digest.ts';
import { LIMITS } from '../support/apply.ts';

const checkpoint = (): void => {};

/**
 * Writes the layer file of an archive, and an index file for the images below it, nearest first. The layer file is verified.
 * @param number of the layer, for the names of the files
 */
export async function writeLayer(folder: string, number: number, archive: Buffer, below: readonly string[]) {
  const path = join(folder, `${number}.erofs`);
  const id = diffId(`sha256:${createHash('sha256').update(archive).digest('hex')}`);
  {
    using layer = new LayerFile(path);
    using tar = new IndexedTar({ limits: LIMITS, checkpoint });
    layer.write(archive);
    tar.write(archive);
    layer.finish(tar.finish().tree, { diffId: id, sync: false, checkpoint });
  }
  assert.equal(await verifyLayerFile(path, { diffId: id, limits: LIMITS, checkpoint }), undefined);
  const fd = openSync(path, constants.O_RDONLY);
  try {
    const on = below.length === 0 ? 'nothing' : [...below];
    const { tree } = treeOnParent(fd, archive.length, on, { limits: LIMITS, checkpoint });
    const index = join(folder, `${number}.index`);
    writeIndexFile(index, tree, { layer: fd, uuid: Buffer.alloc(16, number), sync: false, checkpoint });
    return { path, index };
  } finally {
    closeSync(fd);
  }
}
