import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { UnpackError } from '../../src/errors.ts';
import { anyImage, archiveOf, describeImage } from '../conformance/random-image.ts';
import { scratch } from '../support/scratch.ts';
import { writeLayer } from './layer-images.ts';

/** fsck.erofs 1.8 or later: that of Debian 12 does not know blocks of 512 bytes. */
const fsck = process.env.FSCK_EROFS;
const skip = fsck === undefined && 'FSCK_EROFS names no fsck.erofs of a later suite';
const IMAGES = 25;

test('fsck.erofs accepts layer files and index files', { skip }, async () => {
  using place = scratch();
  await fc.assert(
    fc.asyncProperty(anyImage, async (image) => {
      const folder = join(place.path, 'image');
      mkdirSync(folder);
      const below: string[] = [];
      try {
        for (const [number, layer] of image.entries()) {
          const { path, index } = await writeLayer(folder, number, archiveOf(layer), below);
          below.unshift(index);
          check([path], describeImage(image));
          check([`--device=${path}`, index], describeImage(image));
        }
      } catch (error) {
        if (!(error instanceof UnpackError)) throw error; // the layer is refused
      } finally {
        rmSync(folder, { recursive: true });
      }
    }),
    { numRuns: IMAGES },
  );
});

function check(parameters: readonly string[], image: string): void {
  const { status, stdout, stderr } = spawnSync(fsck ?? '', ['--extract', ...parameters], { encoding: 'utf8' });
  assert.equal(status, 0, `${stdout}${stderr}\n${image}`);
}
