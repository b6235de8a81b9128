import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { applyBlob } from '../../src/rootfs/apply-blob.ts';
import type { BlobSource } from '../../src/source/blob-source.ts';
import { diffTarget, folder, LIMITS } from '../support/apply.ts';
import { layerOf, type TestLayer } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

const MiB = 1 << 20;
const archive = tar(...Array.from({ length: 8 }, (_, i) => file(`f${i}`, Buffer.alloc(MiB, i))));

/** Milliseconds that each step takes, by a clock that nothing else moves. */
const CHUNK = 1000;
const INFLATE = 10;
const WRITE = 100;

/** Applies a layer whose blob comes in `chunks` pieces, and says where its thread spent its time. */
async function timings(t: TestContext, layer: TestLayer, chunks: number) {
  let clock = 0;
  let arrived = 0;
  t.mock.method(performance, 'now', () => clock);
  const bytes = async function* () {
    const length = Math.ceil(layer.bytes.length / chunks);
    for (let at = 0; at < layer.bytes.length; at += length) {
      await turn(); // what was asked for is not there yet: the thread may go on with what it has
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
    lend: () => assert.fail('nothing to lend'),
    close: () => {},
  };
  using dir = scratch();
  const applied = await applyBlob({
    source,
    blob: layer.blob,
    target: diffTarget({ root: folder(dir.path, 'root'), ownership: 'squash' }),
    diffId: layer.diff.digest,
    limits: LIMITS,
    native: true,
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

describe('what the time of a layer went into', () => {
  it('is told apart where bytes are asked for while others are inflated and written', async (t) => {
    const { fetchMs, decompressMs, writeMs, totalMs, arrived } = await timings(t, layerOf(archive, 'zstd'), 5);
    assert.equal(arrived, 5);
    assert.equal(fetchMs, arrived * CHUNK);
    assert.ok(decompressMs >= 8 * INFLATE, `${decompressMs} ms`);
    assert.ok(writeMs >= 8 * WRITE, `${writeMs} ms`);
    assert.equal(fetchMs + decompressMs + writeMs, totalMs);
  });
});
