import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, constants, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import '../support/needs-root.ts';
import { writeIndexFile } from '../../src/erofs/index-file.ts';
import { IndexedTar } from '../../src/erofs/indexed-tar.ts';
import { LayerFile } from '../../src/erofs/layer-file.ts';
import { treeOnParent } from '../../src/erofs/tree-on-parent.ts';
import { verifyLayerFile } from '../../src/erofs/verify.ts';
import { UnpackError } from '../../src/errors.ts';
import { diffId } from '../../src/oci/digest.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { mountImage } from '../../src/system/mount-image.ts';
import { type ExactTree, readExactTree } from '../conformance/exact-tree.ts';
import { anyImage, archiveOf, describeImage } from '../conformance/random-image.ts';
import { applyTar, LIMITS } from '../support/apply.ts';
import { skipWithoutErofs } from '../support/erofs.ts';
import { scratch } from '../support/scratch.ts';

/** UNPACKD_EROFS_IMAGES asks for more than a run of all tests needs. */
const IMAGES = Number(process.env.UNPACKD_EROFS_IMAGES ?? 60);
const checkpoint = (): void => {};

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
      const { path, index } = await layerFile(folder, number, archive, images);
      images.unshift(index ?? path);
      const target = join(folder, `layer-${number}`);
      mkdirSync(target);
      mountImage({ path: index ?? path, devices: index === undefined ? [] : [path] }, target);
      mounted.unshift(target);
    }
    return await merged(folder, mounted);
  } catch (error) {
    return codeOf(error);
  } finally {
    for (const target of mounted) await unmountSnapshot(target);
  }
}

/** Writes a layer file, and an index file on the images below. */
async function layerFile(folder: string, number: number, archive: Buffer, below: readonly string[]) {
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
