import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { readLayer } from '../../src/inspect/read-layer.ts';
import { type BlobDigest, type DiffId, digestOf } from '../../src/oci/digest.ts';
import type { AppliedDiff } from '../../src/rootfs/applier.ts';
import { applyBlob } from '../../src/rootfs/apply-blob.ts';
import type { BlobSource } from '../../src/source/blob-source.ts';
import { diffTarget, folder, LIMITS, SETTINGS } from '../support/apply.ts';
import { fails } from '../support/fails.ts';
import { lent } from '../support/lent.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';
import { paths } from '../support/tree.ts';

const TYPES = {
  'application/vnd.oci.image.layer.v1.tar': 'an uncompressed tar',
  'application/vnd.oci.image.layer.v1.tar+gzip': 'gzip data',
  'application/vnd.oci.image.layer.v1.tar+zstd': 'zstd data',
  'application/vnd.docker.image.rootfs.diff.tar': 'an uncompressed tar',
  'application/vnd.docker.image.rootfs.diff.tar.gzip': 'gzip data',
  'application/vnd.docker.image.rootfs.diff.tar.zstd': 'zstd data',
};

interface Blob {
  readonly bytes: Buffer;
  readonly mediaType: string;
  readonly diffId: DiffId;
  readonly digest?: BlobDigest;
  readonly cut?: number;
}

/** Applies a blob that a source lends in pieces. @returns the result, and the paths in the directory */
async function apply({ bytes, mediaType, diffId, digest = digestOf(bytes), cut = bytes.length }: Blob) {
  const source: BlobSource = {
    name: 'test',
    maxResumes: 0,
    open: async () => ({ size: bytes.length, etag: undefined, offset: 0, chunks: lent(bytes, Math.max(1, cut)) }),
    resolveTag: () => assert.fail('no tags here'),
    grant: () => assert.fail('nothing to lend'),
    close: () => {},
  };
  using dir = scratch();
  const root = folder(dir.path, 'root');
  const target = diffTarget({ root, ownership: 'squash' });
  const task = { blob: { mediaType, digest, size: bytes.length }, diffId, target };
  const applied: AppliedDiff = await applyBlob(source, task, SETTINGS, {
    busy: () => true,
    signal: new AbortController().signal,
    checkpoint: () => {},
    onProgress: () => {},
  });
  return { ...applied, paths: paths(root) };
}

const diffIdOf = (bytes: Buffer, algorithm: 'sha256' | 'sha512' = 'sha256') =>
  digestOf(bytes, algorithm) as string as DiffId;
const skippable = Buffer.from('5a2a4d18040000006e6f6e65', 'hex');

describe('the compression of a layer', () => {
  const archive = tar(file('f', 'content'));
  const blobs: readonly (readonly [string, Buffer])[] = [
    ['an uncompressed tar', archive],
    ['gzip data', gzipSync(archive)],
    ['zstd data', zstdCompressSync(archive)],
    ['zstd data', Buffer.concat([skippable, zstdCompressSync(archive)])],
  ];
  for (const [mediaType, declared] of Object.entries(TYPES)) {
    it(`is detected from its bytes under ${mediaType}, with one warning if they differ`, async () => {
      for (const [actual, bytes] of blobs) {
        for (const algorithm of ['sha256', 'sha512'] as const) {
          for (const cut of [3, bytes.length]) {
            const applied = await apply({ bytes, mediaType, diffId: diffIdOf(archive, algorithm), cut });
            assert.deepEqual(applied.paths, ['f']);
            assert.equal(applied.digest, diffIdOf(archive, algorithm));
            const [warning = '', ...more] = applied.warnings;
            assert.deepEqual(more, []);
            if (declared === actual) assert.equal(warning, '');
            else {
              assert.ok(warning.includes(`${mediaType} means ${declared}`), warning);
              assert.ok(warning.includes(`but its bytes are ${actual}`), warning);
            }
          }
        }
      }
    });
  }

  it('is not detected if the media type is not one of a layer: it is refused without a request', async () => {
    for (const mediaType of ['application/vnd.oci.image.config.v1+json', 'text/html', 'application/octet-stream']) {
      await fails('UNSUPPORTED_MEDIA_TYPE', apply({ bytes: archive, mediaType, diffId: diffIdOf(archive) }));
    }
  });
});

describe('a tar whose first name begins with the magic bytes of compressed data', () => {
  const names = ['1f8b08', '1f8b', '1f8b00ff', '28b52ffd', '502a4d18', '5f2a4d18ffffffff'];
  const archives = names.map((hex) => ({
    hex,
    archive: tar(file(Buffer.from(`${hex}41`, 'hex'), 'content'), file('g')),
  }));

  for (const mediaType of Object.keys(TYPES)) {
    it(`is unpacked under ${mediaType}, even if its digest and DiffID use different algorithms`, async () => {
      for (const { hex, archive } of archives) {
        for (const [blob, diff] of [
          ['sha256', 'sha256'],
          ['sha512', 'sha512'],
          ['sha512', 'sha256'],
          ['sha256', 'sha512'],
        ] as const) {
          for (const cut of [7, archive.length]) {
            const diffId = diffIdOf(archive, diff);
            const applied = await apply({ bytes: archive, mediaType, diffId, digest: digestOf(archive, blob), cut });
            assert.equal(applied.entries, 2, `${hex}, ${blob} and ${diff}`);
            assert.equal(applied.digest, diffId);
          }
        }
      }
    });
  }

  it('is also read as a tar by readLayer', async () => {
    for (const { hex, archive } of archives) {
      const layer = readLayer(lent(archive, 100), { limits: LIMITS, algorithm: 'sha256', contents: false });
      let entries = 0;
      for (;;) {
        const next = await layer.next();
        if (next.done) {
          assert.equal(next.value.compression, 'none', hex);
          break;
        }
        entries += next.value.length;
      }
      assert.equal(entries, 2);
    }
  });
});

describe('an empty blob', () => {
  const nothing = Buffer.alloc(0);
  it('is an empty tar under any media type', async () => {
    for (const [mediaType, declared] of Object.entries(TYPES)) {
      const applied = await apply({ bytes: nothing, mediaType, diffId: diffIdOf(nothing) });
      assert.deepEqual(applied.paths, []);
      assert.equal(applied.digest, diffIdOf(nothing));
      assert.equal(applied.warnings.length, declared === 'an uncompressed tar' ? 0 : 1, mediaType);
      for (const warning of applied.warnings) assert.match(warning, /it has no bytes, which is an empty tar/);
    }
  });

  it('has the digest of an empty tar, whatever DiffID the image has', async () => {
    const mediaType = 'application/vnd.oci.image.layer.v1.tar+gzip';
    const applied = await apply({ bytes: nothing, mediaType, diffId: diffIdOf(tar()) });
    assert.equal(applied.digest, diffIdOf(nothing));
  });
});

describe('compressed data whose digest the config gives as the DiffID', () => {
  it('are refused with a message about the config', async () => {
    for (const bytes of [gzipSync(tar(file('f'))), zstdCompressSync(tar(file('f')))]) {
      for (const mediaType of Object.keys(TYPES)) {
        const error = await fails('DIFF_ID_MISMATCH', apply({ bytes, mediaType, diffId: diffIdOf(bytes) }));
        assert.match(error.message, /the digest of the blob as the DiffID of the layer/);
      }
    }
  });

  it('are not blamed if the download was damaged', async () => {
    const archive = tar(file('f'));
    const mediaType = 'application/vnd.oci.image.layer.v1.tar';
    const diffId = diffIdOf(archive);
    await fails(
      'BLOB_DIGEST_MISMATCH',
      apply({ bytes: gzipSync(archive), mediaType, diffId, digest: digestOf(archive) }),
    );
  });
});
