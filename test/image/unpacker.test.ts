import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import '../support/needs-root.ts';
import { UnpackError } from '../../src/errors.ts';
import type { ImageState } from '../../src/image/progress.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { type DiffId, digestOf, hexOf } from '../../src/oci/digest.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Store } from '../../src/snapshots/store.ts';
import { altered } from '../support/altered.ts';
import { LIMITS } from '../support/apply.ts';
import { imageOf, layerOf, type TestLayer, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

/** A store, and an unpacker of the image with these layers under the tag `app`. */
async function bench(
  layers: readonly TestLayer[],
  limits: Partial<typeof LIMITS> = {},
  image = imageOf(layers),
  change: (snapshotter: Store) => Store = (snapshotter) => snapshotter,
  durable = true,
) {
  const dir = scratch();
  const path = join(dir.path, 'layout');
  await writeLayout(path, { app: image });
  const snapshotter = await openSnapshotter({ root: join(dir.path, 'store'), type: 'overlay', durable });
  const unpacker = createUnpacker(change(snapshotter), {
    threads: 2,
    apply: { limits: { ...LIMITS, ...limits }, native: true },
  });
  const source = { kind: 'oci-layout', path } as const;
  const wanted = { image: 'app', source, request: { target: { kind: 'tag', tag: 'app' } } } as const;
  return {
    image,
    snapshotter,
    unpack: async (options = {}) => unpacker.unpack(await unpacker.lookUp(wanted), options),
    look: () => unpacker.lookUp(wanted),
    /** Puts other bytes where the blob of a layer is. */
    damage: (index: number, change: (bytes: Buffer) => Buffer) => {
      const layer = layers[index];
      assert.ok(layer);
      return writeFile(join(path, 'blobs/sha256', hexOf(layer.blob.digest)), change(Buffer.from(layer.bytes)));
    },
    /** Removes the blob of a layer. */
    remove: (index: number) =>
      rm(join(path, 'blobs/sha256', hexOf(layers[index]?.blob.digest ?? digestOf(Buffer.of())))),
    async [Symbol.asyncDispose]() {
      await unpacker.close();
      await snapshotter.close();
      dir[Symbol.dispose]();
    },
  };
}

async function fails(b: Awaited<ReturnType<typeof bench>>, code: string, text: RegExp): Promise<void> {
  await assert.rejects(b.unpack(), (error) => {
    assert.ok(error instanceof UnpackError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, text);
    return true;
  });
  assert.deepEqual(await b.snapshotter.walk(), [], 'nothing is left in the store');
}

/** A layer whose blob is `bytes`, valid or not. */
function odd(archive: Buffer, bytes: Buffer, mediaType: string): TestLayer {
  return {
    diff: { digest: digestOf(archive) as string as DiffId },
    blob: { mediaType, digest: digestOf(bytes), size: bytes.length },
    bytes,
  };
}

const GZIP = 'application/vnd.oci.image.layer.v1.tar+gzip';
const ZSTD = 'application/vnd.oci.image.layer.v1.tar+zstd';
const PLAIN = 'application/vnd.oci.image.layer.v1.tar';
const archive = tar(file('a', 'x'.repeat(70_000)), file('b', 'y'));

describe('unpacking an image', () => {
  it('returns the state of each layer: digests, sizes, entries and timings', async () => {
    const layers = [layerOf(archive, 'gzip'), layerOf(tar(file('c', 'z')), 'zstd'), layerOf(tar(file('d')), 'none')];
    await using b = await bench(layers);
    let live: readonly ImageState[] = [];
    const [image] = await b.unpack({ onResolved: (images: readonly ImageState[]) => (live = images) });
    assert.ok(image);
    assert.equal(image.chainId, b.image.chainId);
    assert.equal(image.manifestDigest, b.image.manifestDigest);
    assert.equal(image.configDigest, b.image.configDigest);
    assert.deepEqual(
      image.layers.map(({ phase, fetched, unpacked, entries }) => ({ phase, fetched, unpacked, entries })),
      layers.map((layer, i) => ({
        phase: 'applied',
        fetched: layer.blob.size,
        unpacked: [archive.length, tar(file('c', 'z')).length, tar(file('d')).length][i],
        entries: [2, 1, 1][i],
      })),
    );
    for (const { timings } of image.layers) {
      assert.ok(timings);
      const { fetchMs, decompressMs, writeMs, totalMs } = timings;
      assert.ok(Math.abs(fetchMs + decompressMs + writeMs - totalMs) < 0.001);
    }
    assert.equal(live[0]?.layers[0]?.phase, 'applied');
    const [again] = await b.unpack();
    assert.deepEqual(
      again?.layers.map(({ phase }) => phase),
      ['existed', 'existed', 'existed'],
    );
  });

  it('returns whether all layers are on disk, and warns of those that another process has not synced', async () => {
    const layers = [layerOf(tar(file('a'))), layerOf(tar(file('b')))];
    await using synced = await bench(layers);
    assert.equal((await synced.unpack())[0]?.durable, true);
    await using b = await bench(layers, {}, undefined, undefined, false);
    const [image] = await b.unpack();
    assert.deepEqual([image?.durable, image?.warnings], [false, []]);
    assert.equal((await b.look()).existing?.[0]?.durable, false);
    const other = await openSnapshotter({ root: b.snapshotter.root, type: 'overlay', durable: false });
    assert.deepEqual(await other.unsynced(b.image.chainId), { own: 0, others: 2 });
    await other.close();
    await b.snapshotter.sync();
    const { existing } = await b.look();
    assert.deepEqual([existing?.[0]?.durable, existing?.[0]?.warnings], [true, []]);
  });

  it('reads all members of a gzip blob, and zeros after them', async () => {
    const bytes = Buffer.concat([
      gzipSync(archive.subarray(0, 5000)),
      gzipSync(archive.subarray(5000)),
      Buffer.alloc(99),
    ]);
    await using b = await bench([odd(archive, bytes, GZIP)]);
    assert.equal((await b.unpack())[0]?.layers[0]?.entries, 2);
  });

  it('reads all frames of a zstd blob, skippable ones too', async () => {
    const skippable = Buffer.from('5a2a4d1803000000abcdef', 'hex');
    const frames = [archive.subarray(0, 600), archive.subarray(600)].map((part) => zstdCompressSync(part));
    const bytes = Buffer.concat([skippable, ...frames, skippable]);
    await using b = await bench([odd(archive, bytes, ZSTD)]);
    assert.equal((await b.unpack())[0]?.layers[0]?.entries, 2);
  });

  it('includes bytes after the end of the archive in the DiffID', async () => {
    const longer = Buffer.concat([archive, Buffer.from('trailing bytes')]);
    await using b = await bench([odd(longer, gzipSync(longer), GZIP)]);
    assert.equal((await b.unpack())[0]?.layers[0]?.unpacked, longer.length);
  });

  it('takes an empty layer', async () => {
    await using b = await bench([layerOf(tar()), layerOf(Buffer.alloc(0), 'none')]);
    assert.equal((await b.unpack())[0]?.layers[1]?.entries, 0);
  });
});

const FOREIGN = 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip';

describe('the layers of a running job', () => {
  it('cannot be removed until the job has ended, whether they existed or were just committed', async () => {
    const layers = [layerOf(archive), layerOf(tar(file('c', 'z'))), layerOf(tar(file('d')))];
    const refusals: string[] = [];
    // tries to remove each layer at once after its commit, before the layer above is committed on it
    const change = (snapshotter: Store) =>
      altered(snapshotter, {
        async commit(name, ...rest) {
          await snapshotter.commit(name, ...rest);
          await snapshotter.remove(name).catch((error: Error) => refusals.push(error.message));
        },
      });
    await using b = await bench(layers, {}, undefined, change);
    const [unpacked] = await b.unpack({ owner: { worker: 'worker-1', job: 'job-7' } });
    assert.equal(unpacked?.chainId, b.image.chainId);
    assert.equal(refusals.length, 3);
    for (const refusal of refusals)
      assert.match(refusal, /\(worker worker-1, job job-7\) needs it until its job has ended$/);
    await b.snapshotter.remove(b.image.chainId);
  });
});

describe('an image without layers', () => {
  it('completes without a chain ID, and is always in the store', async () => {
    await using b = await bench([]);
    const lines: string[] = [];
    const [image] = await b.unpack({ log: (_: string, sentence: string) => lines.push(sentence) });
    assert.ok(image);
    assert.equal('chainId' in image, false);
    assert.deepEqual(image.layers, []);
    assert.match(lines.join(), /no layers/);
    assert.deepEqual((await b.look()).existing, [{ ...image }]);
    assert.deepEqual(await b.snapshotter.walk(), []);
  });
});

describe('a document that deviates from the specification', () => {
  it('is named in the warnings, even if the layers exist already', async () => {
    const odd = imageOf([layerOf(archive)], undefined, { schemaVersion: undefined });
    await using b = await bench([layerOf(archive)], {}, odd);
    const lines: string[] = [];
    const [first] = await b.unpack({
      log: (level: string, sentence: string) => level === 'warn' && lines.push(sentence),
    });
    assert.match(first?.warnings.join() ?? '', /^document sha256:.* schemaVersion is missing; treated as 2$/);
    assert.deepEqual(lines, first?.warnings);
    assert.deepEqual((await b.look()).existing?.[0]?.warnings, first?.warnings);
    assert.deepEqual((await b.unpack())[0]?.warnings, first?.warnings);
  });
});

describe('a non-distributable layer', () => {
  it('is unpacked if the source has its blob', async () => {
    await using b = await bench([odd(archive, gzipSync(archive), FOREIGN)]);
    assert.equal((await b.unpack())[0]?.layers[0]?.entries, 2);
  });

  it('without a blob fails with a message that explains it and says what to do', async () => {
    await using b = await bench([odd(archive, gzipSync(archive), FOREIGN)]);
    await b.remove(0);
    await fails(b, 'BLOB_NOT_FOUND', /layer 1 of 1 .*non-distributable .*upload its blob/);
  });
});

describe('unpacking is refused', () => {
  it('when a blob arrives damaged, with BLOB_DIGEST_MISMATCH', async () => {
    await using b = await bench([layerOf(archive)]);
    for (const at of [0, 1, 100, -9, -1]) {
      await b.damage(0, (bytes) => {
        const i = at < 0 ? bytes.length + at : at;
        bytes[i] = (bytes[i] ?? 0) ^ 1;
        return bytes;
      });
      await fails(b, 'BLOB_DIGEST_MISMATCH', /layer 1 of 1/);
    }
  });

  it('when an uncompressed blob arrives damaged', async () => {
    await using b = await bench([layerOf(tar(file('a')), 'none'), layerOf(tar(file('b')), 'zstd')]);
    await b.damage(0, (bytes) => Buffer.from(bytes.fill(0x41, 0, 20)));
    await fails(b, 'BLOB_DIGEST_MISMATCH', /layer 1 of 2/);
  });

  it('when a blob is shorter or longer than its descriptor says', async () => {
    await using b = await bench([layerOf(archive)]);
    await b.damage(0, (bytes) => bytes.subarray(0, -1));
    await fails(b, 'BLOB_SIZE_MISMATCH', /layer 1 of 1/);
    await b.damage(0, (bytes) => Buffer.concat([bytes, Buffer.alloc(1)]));
    await fails(b, 'BLOB_SIZE_MISMATCH', /layer 1 of 1/);
  });

  it('when the compressed data was built truncated or with trailing bytes', async () => {
    const cases: [Buffer, string, RegExp][] = [
      [gzipSync(archive).subarray(0, -10), GZIP, /ends too early/],
      [Buffer.concat([gzipSync(archive), Buffer.from('junk')]), GZIP, /gzip data/],
      [zstdCompressSync(archive).subarray(0, -1), ZSTD, /ends too early/],
      [Buffer.concat([zstdCompressSync(archive), Buffer.from('junk')]), ZSTD, /zstd data/],
      [archive.subarray(0, 1000), PLAIN, /ends inside the content/],
    ];
    for (const [bytes, mediaType, text] of cases) {
      await using b = await bench([odd(archive, bytes, mediaType)]);
      await fails(b, 'LAYER_CORRUPT', text);
    }
  });

  it('when a small blob inflates past the limit', async () => {
    const bomb = tar(file('zeros', Buffer.alloc(20_000_000)));
    await using b = await bench([layerOf(bomb)], { uncompressedBytes: 1_000_000 });
    await fails(b, 'LIMIT_EXCEEDED', /longer than 1000000 bytes/);
  });

  it('when a layer has more entries than the limit', async () => {
    await using b = await bench([layerOf(tar(file('a'), file('b'), file('c')))], { entries: 2 });
    await fails(b, 'LIMIT_EXCEEDED', /more than 2 entries/);
  });

  it('when a small blob is truncated at any byte, with a typed error and nothing left in the store', async () => {
    const small = tar(file('a', 'content'));
    const blobs: [Buffer, string, number][] = [
      [gzipSync(small), GZIP, 7],
      [zstdCompressSync(small), ZSTD, 7],
      [small, PLAIN, 200],
    ];
    const codes = new Set<string>();
    for (const [whole, mediaType, step] of blobs) {
      for (let cut = 0; cut < whole.length; cut += step) {
        await using b = await bench([odd(small, whole.subarray(0, cut), mediaType)]);
        await assert.rejects(b.unpack(), (error) => {
          assert.ok(error instanceof UnpackError);
          codes.add(error.code);
          return true;
        });
        assert.deepEqual(await b.snapshotter.walk(), []);
      }
    }
    assert.deepEqual([...codes].sort(), ['DIFF_ID_MISMATCH', 'LAYER_CORRUPT']);
  });
});
