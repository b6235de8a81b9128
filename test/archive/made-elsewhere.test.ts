import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { decompress } from '../../src/archive/compression.ts';
import { UnpackError } from '../../src/errors.ts';
import { applyTar } from '../support/apply.ts';
import { lent, readAll } from '../support/lent.ts';
import { Sandbox } from '../support/sandbox.ts';
import { digestOfOutput } from '../support/stream.ts';
import { readTree } from '../support/tree.ts';

/** With Node's streams, and with native code. */
const WAYS = [false, true];

/** Bytes between two tested positions. streams.test.ts tests every byte of smaller blobs. */
const STEP = 5;

/** Digests from the tools that wrote the blobs: see blobs/README.md. */
const BLOBS = {
  'estargz.tar.gz': {
    compression: 'gzip',
    diffId: '6d7de8929222c40b6eb978a4ae98c301fd9d4418b7d711f7e55e8a6fd96a47f0',
    mtime: 1_600_000_000_123_456_789n,
    added: ['.prefetch.landmark', 'stargz.index.json'],
    deleted: ['dir/gone'],
  },
  'zstd-chunked.tar.zst': {
    compression: 'zstd',
    diffId: '54ad29b065c1e9e9ff3201d6fe1ef8cb67f595ff165c0ab1ded6f1b6320baebb',
    mtime: 1_600_000_000_000_000_000n, // buildah writes whole seconds
    added: [],
    deleted: ['dir-gone', 'dir/gone'],
  },
} as const;

const inflate = (blob: Buffer, native: boolean): Promise<Buffer> => readAll(decompress(lent(blob), { native }));

/** The output for a damaged blob; `undefined` if it is refused. */
async function ifTaken(blob: Buffer, native: boolean): Promise<Buffer | undefined> {
  try {
    const bytes = await inflate(blob, native);
    return bytes.equals(blob) ? undefined : bytes; // taken for a tar, which it is not
  } catch (error) {
    assert.ok(error instanceof UnpackError, String(error));
    assert.ok(['LAYER_CORRUPT', 'LIMIT_EXCEEDED'].includes(error.code), error.code);
    return undefined;
  }
}

for (const [name, { compression, diffId, mtime, added, deleted }] of Object.entries(BLOBS)) {
  describe(name, () => {
    const blob = readFileSync(new URL(`blobs/${name}`, import.meta.url));

    it('is decompressed completely, in pieces of any size', async () => {
      for (const native of WAYS) {
        for (const cut of [1, 7, 511, 4096, blob.length]) {
          const digest = await digestOfOutput(decompress(lent(blob, cut), { native }));
          assert.equal(digest, diffId, `native ${native}, in pieces of ${cut}`);
        }
      }
    });

    it('unpacks to its original files', async () => {
      using box = new Sandbox();
      applyTar(await inflate(blob, true), { root: box.roots[0], below: 'later' });
      const tree = readTree(box.roots[0]);
      const paths = [
        'dir',
        'dir/small',
        'dir/sub',
        'dir/sub/zeros',
        'empty',
        'large',
        'link',
        'null',
        'pipe',
        'second',
      ];
      const fresh = compression === 'gzip' ? ['fresh'] : [];
      assert.deepEqual(Object.keys(tree).sort(), [...paths, ...fresh, ...added, ...deleted].sort());
      assert.equal(tree.large?.size, 25_992);
      assert.deepEqual(tree.large?.xattrs, { 'user.note': 'yes' });
      assert.equal(tree.large?.mtime, mtime);
      assert.equal(tree['dir/sub']?.owner, '1000:1001');
      assert.equal(tree['dir/small']?.mode, '4755');
    });

    it('is refused if it is truncated, except between members or frames, where size and digest show it', async () => {
      const whole = await inflate(blob, true);
      for (let end = 1; end < blob.length; end += STEP) {
        const [one, other] = await Promise.all(WAYS.map((native) => ifTaken(blob.subarray(0, end), native)));
        assert.ok(one?.equals(whole.subarray(0, one.length)) ?? true, `cut at ${end}`);
        assert.equal(one?.length, other?.length, `cut at ${end}`);
      }
    });

    it('is refused, or gives the original content, for a wrong bit in any byte', async () => {
      const whole = await inflate(blob, true);
      for (let at = 0; at < blob.length; at += STEP) {
        const damaged = Buffer.from(blob);
        damaged[at] = (blob[at] ?? 0) ^ (1 << (at % 8));
        const results = await Promise.all(WAYS.map((native) => ifTaken(damaged, native)));
        for (const result of results) assert.ok(result?.equals(whole) ?? true, `a wrong bit in byte ${at}`);
      }
    });
  });
}
