import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { it } from 'node:test';
import { resolveImages } from '../../src/image/resolve.ts';
import { hexOf } from '../../src/oci/digest.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { STORE_TYPES, started } from './agreement.ts';
import { compareImage } from './conformance.ts';

/** CONFORMANCE_IMAGE=FOLDER[,FOLDER…]: OCI layouts of real images; CONFORMANCE_TAG: which image in them, `app` if unset. */
const LAYOUTS = (process.env.CONFORMANCE_IMAGE ?? '').split(',').filter((path) => path !== '');
const TAG = process.env.CONFORMANCE_TAG ?? 'app';

const running = LAYOUTS.length === 0 ? { skip: 'CONFORMANCE_IMAGE names no OCI layout' } : await started();

for (const path of LAYOUTS.length === 0 ? ['(none)'] : LAYOUTS) {
  for (const type of STORE_TYPES) {
    it(`the real image in ${path} leaves the same folders, ${type}`, { skip: running.skip }, async (test) => {
      if (!('suite' in running)) return;
      const source = openSource({ kind: 'oci-layout', path });
      const [image] = await resolveImages(source, { target: { kind: 'tag', tag: TAG } }, {});
      source.close();
      assert.ok(image);
      const layers = image.layers.map((layer) => ({
        ...layer,
        bytes: () => readFile(join(path, 'blobs/sha256', hexOf(layer.blob.digest))),
      }));
      const lines = await compareImage(running.suite, layers, type);
      test.diagnostic(`${layers.length} layers`);
      assert.deepEqual(lines.slice(0, 50), [], `${lines.length} differences`);
    });
  }
}
