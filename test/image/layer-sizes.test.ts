import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { LayerSizes, total } from '../../src/image/layer-sizes.ts';
import type { Layer } from '../../src/oci/descriptor.ts';
import { LABEL_DIFF_ID, type SnapshotInfo } from '../../src/snapshots/snapshotter.ts';
import { layerOf } from '../support/layout.ts';

const plain = layerOf(Buffer.alloc(5000, 1), 'none');
const gzip = layerOf(Buffer.alloc(5000, 2));
const withSize: Layer = {
  ...gzip,
  blob: { ...gzip.blob, annotations: { 'io.containers.estargz.uncompressed-size': '5000' } },
};

/** A store with one snapshot of this DiffID. */
const storeWith = (diffId: string, size?: SnapshotInfo['size']) => {
  let walks = 0;
  return {
    // `as`: the other fields are not looked at
    walk: async () => {
      walks += 1;
      return [
        { labels: { [LABEL_DIFF_ID]: diffId }, ...(size === undefined ? {} : { size }) },
      ] as unknown as SnapshotInfo[];
    },
    walks: () => walks,
  };
};
const none = storeWith('none');
const bytes = ([needs]: readonly { least: { bytes: number }; likely: { bytes: number } }[]) => [
  needs?.least.bytes,
  needs?.likely.bytes,
];

describe('the size of a layer', () => {
  test('is that of its blob if the blob is the tar, or that of an annotation, or guessed from its blob', () => {
    const sizes = new LayerSizes(none);
    assert.deepEqual(bytes(sizes.roughNeedsOf([plain])), [5000, 5000]);
    assert.deepEqual(bytes(sizes.roughNeedsOf([withSize])), [5000, 5000]);
    assert.deepEqual(bytes(sizes.roughNeedsOf([gzip])), [gzip.blob.size, gzip.blob.size * 3]);
  });

  test('is that of a snapshot with the same DiffID, if the store has one', async () => {
    const store = storeWith(gzip.diff.digest, { bytes: 8192, inodes: 7 });
    assert.deepEqual(await new LayerSizes(store).needsOf([gzip]), [
      { least: { bytes: 8192, inodes: 7 }, likely: { bytes: 8192, inodes: 7 } },
    ]);
    const unmeasured = storeWith(gzip.diff.digest);
    assert.deepEqual(bytes(await new LayerSizes(unmeasured).needsOf([gzip])), [gzip.blob.size, gzip.blob.size * 3]);
  });

  test('is remembered after it was unpacked, also when the store has it no more', async () => {
    const sizes = new LayerSizes(none);
    sizes.remember(gzip, { bytes: 4096, inodes: 2 });
    const before = none.walks();
    assert.deepEqual(bytes(await sizes.needsOf([gzip])), [4096, 4096]);
    assert.equal(none.walks(), before, 'the store is not read');
  });

  test('is at least what was written when the disk was full, and probably twice as much', () => {
    const sizes = new LayerSizes(none);
    sizes.rememberPart(gzip, { bytes: 100_000, inodes: 50 });
    assert.deepEqual(sizes.roughNeedsOf([gzip]), [
      { least: { bytes: 100_000, inodes: 50 }, likely: { bytes: 200_000, inodes: 100 } },
    ]);
    sizes.remember(gzip, { bytes: 150_000, inodes: 60 });
    assert.deepEqual(bytes(sizes.roughNeedsOf([gzip])), [150_000, 150_000]);
  });

  test('is guessed from the layers that were unpacked before, if they took more than usual', () => {
    const sizes = new LayerSizes(none);
    const blob = (size: number): Layer => ({ ...gzip, blob: { ...gzip.blob, size } });
    const other: Layer = { ...blob(1000), diff: layerOf(Buffer.alloc(10)).diff };
    sizes.remember(blob(1 << 20), { bytes: 2 << 20, inodes: 1 });
    assert.deepEqual(bytes(sizes.roughNeedsOf([other])), [1000, 3000], 'less than usual proves nothing');
    for (let count = 0; count < 50; count++) sizes.remember(blob(10 << 20), { bytes: 400 << 20, inodes: 1 });
    const [, likely = 0] = bytes(sizes.roughNeedsOf([other]));
    assert.ok(likely > 39_000 && likely <= 40_000, `${likely}`);
    // a layer that takes a multiple of a tiny blob does not count
    sizes.remember(blob(100), { bytes: 1 << 20, inodes: 1 });
    assert.ok((bytes(sizes.roughNeedsOf([other]))[1] ?? 0) <= 40_001);
    for (let count = 0; count < 500; count++) sizes.remember(blob(100 << 20), { bytes: 300 << 20, inodes: 1 });
    assert.ok((bytes(sizes.roughNeedsOf([other]))[1] ?? 0) < 3500, 'older layers count less and less');
  });

  test('adds up for several layers', () => {
    const { least } = total(new LayerSizes(none).roughNeedsOf([plain, withSize]));
    assert.equal(least.bytes, 10_000);
  });
});
