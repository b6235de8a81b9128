import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import '../support/needs-root.ts';
import { UnpackError } from '../../src/errors.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { mountImage } from '../../src/system/mount-image.ts';
import { type ExactTree, readExactTree } from '../conformance/exact-tree.ts';
import { anyImage, archiveOf, describeImage } from '../conformance/random-image.ts';

import { applyTar } from '../support/apply.ts';
import { skipWithoutErofs } from '../support/erofs.ts';
import { scratch } from '../support/scratch.ts';
import { writeLayer } from './layer-images.ts';

/** UNPACKD_EROFS_IMAGES asks for more than a run of all tests needs. */
const IMAGES = Number(process.env.UNPACKD_EROFS_IMAGES ?? 60);
test('random images are the same trees as in the overlay store', { skip: skipWithoutErofs() }, async () => {
  using place = scratch();
  let compared = 0;
  await fc.assert(
    fc.asyncProperty(anyImage, async (image) => {
      const folder = join(place.path, 'image');
      mkdirSync(folder);
      try {
        const archives = image.map(archiveOf);
        const since = BigInt(Date.now()) * 1_000_000n;
        const [overlay, erofs] = [overlayTree(folder, archives), erofsTree(folder, archives)];
        const [expected, actual] = [await overlay, await erofs];
        assert.equal(typeof actual, typeof expected, `${JSON.stringify([expected, actual])}\n${describeImage(image)}`);
        if (typeof expected === 'string' || typeof actual === 'string') return;
        compared++;
        assert.deepEqual(lines(actual, since), lines(expected, since), describeImage(image));
      } finally {
        rmSync(folder, { recursive: true });
      }
    }),
    { numRuns: IMAGES, ...(process.env.UNPACKD_EROFS_SEED ? { seed: Number(process.env.UNPACKD_EROFS_SEED) } : {}) },
  );
  assert.ok(compared > IMAGES / 8, `${compared} of ${IMAGES} images were compared`);
});

/** Each path with all facts. A time of this test is what a change gives in the kernel; in a layer file it is 1970. */
function lines(tree: ExactTree, since: bigint): string[] {
  return [...tree].map(([path, { type, facts, mtime }]) => {
    const time = mtime >= since - 10_000_000_000n ? 0n : mtime;
    return `${path} ${type} ${[...facts].map(([key, value]) => `${key}=${value}`).join(' ')} ${time}`;
  });
}

/** The tree of an image whose layers are directories of an overlay; a code if it is refused. */
async function overlayTree(folder: string, archives: readonly Buffer[]): Promise<ExactTree | string> {
  const lowers: string[] = [];
  try {
    for (const [number, archive] of archives.entries()) {
      const write = (pass: string, findings: Parameters<typeof applyTar>[2]) => {
        const root = join(folder, `overlay-${number}-${pass}`);
        mkdirSync(root, { mode: 0o755 });
        const below = number === 0 ? ('nothing' as const) : ('parent' as const);
        return { root, ...applyTar(archive, { root, below, lowers: [...lowers] }, findings) };
      };
      const first = write('1', {});
      lowers.unshift(first.again === undefined ? first.root : write('2', { findings: first.again }).root);
    }
  } catch (error) {
    return codeOf(error);
  }
  return merged(folder, lowers);
}

/** The tree of the same image whose layers are files. */
async function erofsTree(folder: string, archives: readonly Buffer[]): Promise<ExactTree | string> {
  const images: string[] = [];
  const mounted: string[] = [];
  try {
    for (const [number, archive] of archives.entries()) {
      const { path, index } = await writeLayer(folder, number, archive, images);
      images.unshift(index);
      const target = join(folder, `layer-${number}`);
      mkdirSync(target);
      mountImage({ path: index, devices: [path] }, target);
      mounted.unshift(target);
    }
    return await merged(folder, mounted);
  } catch (error) {
    return codeOf(error);
  } finally {
    for (const target of mounted) await unmountSnapshot(target);
  }
}

async function merged(folder: string, lowers: readonly string[]): Promise<ExactTree> {
  const target = join(folder, 'merged');
  const empty = join(folder, 'empty');
  mkdirSync(target, { recursive: true });
  mkdirSync(empty, { recursive: true });
  const options = ['ro', `lowerdir=${[...lowers, empty].join(':')}`];
  await mountSnapshot([{ type: 'overlay', source: 'overlay', options }], target);
  try {
    return readExactTree(target);
  } finally {
    await unmountSnapshot(target);
  }
}

function codeOf(error: unknown): string {
  if (error instanceof UnpackError) return error.code;
  throw error;
}
