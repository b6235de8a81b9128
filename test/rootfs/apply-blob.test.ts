import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { applyBlob } from '../../src/rootfs/apply-blob.ts';
import type { BlobSource } from '../../src/source/blob-source.ts';
import { diffTarget, folder, SETTINGS } from '../support/apply.ts';
import { layerOf, type TestLayer } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

const MiB = 1 << 20;
const archive = tar(...Array.from({ length: 8 }, (_, i) => file(`f${i}`, Buffer.alloc(MiB, i))));

/** Milliseconds that each step takes on the mocked clock. */
const CHUNK = 1000;
const INFLATE = 10;
const WRITE = 100;

/** Applies a layer whose blob arrives in `chunks` pieces. @returns its timings */
async function timings(t: TestContext, layer: TestLayer, chunks: number) {
  let clock = 0;
  let arrived = 0;
  t.mock.method(performance, 'now', () => clock);
  const bytes = async function* () {
    const length = Math.ceil(layer.bytes.length / chunks);
    for (let at = 0; at < layer.bytes.length; at += length) {
      await turn(); // the chunk has not arrived yet; the thread may inflate what it has
      clock += CHUNK;
      arrived += 1;
      yield layer.bytes.subarray(at, at + length);
    }
  };
  const source: BlobSource = {
    name: 'test',
    maxResumes: 0,
    open: async () => ({ size: layer.blob.size, etag: undefined, offset: 0, chunks: bytes() }),
    resolveTag: () => assert.fail('no tags here'),
    grant: () => assert.fail('nothing to lend'),
    close: () => {},
  };
  using dir = scratch();
  const target = diffTarget({ root: folder(dir.path, 'root'), ownership: 'squash' });
  const task = { blob: layer.blob, diffId: layer.diff.digest, target };
  const applied = await applyBlob(source, task, SETTINGS, {
    // asked before each piece is inflated
    busy: () => {
      clock += INFLATE;
      return true;
    },
    signal: new AbortController().signal,
    checkpoint: () => {},
    onProgress: () => {
      clock += WRITE;
    },
  });
  return { ...applied.timings, arrived };
}

describe('the timings of a layer', () => {
  it('separate fetching, decompressing and writing when they overlap', async (t) => {
    const { fetchMs, decompressMs, writeMs, totalMs, arrived } = await timings(t, layerOf(archive, 'zstd'), 5);
    assert.equal(arrived, 5);
    assert.equal(fetchMs, arrived * CHUNK);
    assert.ok(decompressMs >= 8 * INFLATE, `${decompressMs} ms`);
    assert.ok(writeMs >= 8 * WRITE, `${writeMs} ms`);
    assert.equal(fetchMs + decompressMs + writeMs, totalMs);
  });
});
