import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { UnpackError } from '../../src/errors.ts';
import { resolveImages } from '../../src/image/resolve.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { type BlobDigest, digestOf } from '../../src/oci/digest.ts';
import { DOCKER_LIST, OCI_CONFIG, OCI_MANIFEST } from '../../src/oci/media-type.ts';
import { formatPlatform, hostPlatform, type Platform, parsePlatform } from '../../src/oci/platform.ts';
import type { BlobSource } from '../../src/source/blob-source.ts';
import { openSource } from '../../src/source/open.ts';
import { startTestBucket, type TestBucket } from '../support/bucket.ts';
import { fails } from '../support/fails.ts';
import { startFaultyProxy } from '../support/faulty-s3.ts';
import { buildImage, buildIndex, json, type PutBlob } from '../support/image-builder.ts';

const platforms = (...names: string[]): Platform[] => names.map(parsePlatform);

describe('resolveImages', { timeout: 60_000 }, () => {
  let bucket: TestBucket;
  let source: BlobSource;
  let put: PutBlob;

  before(async () => {
    bucket = await startTestBucket();
    source = openSource(bucket.spec());
    put = (bytes, mediaType) => bucket.putBlob(bytes, mediaType);
  });
  after(async () => {
    source.close();
    await bucket.close();
  });

  const resolve = (descriptor: Pick<Descriptor, 'digest'>, wanted?: readonly Platform[] | 'all') =>
    resolveImages(source, {
      target: { kind: 'manifest', digest: descriptor.digest },
      ...(wanted === undefined ? {} : { platforms: wanted }),
    });
  const image = async (name: string, parts = {}) => {
    const platform = parsePlatform(name);
    return { ...(await buildImage(put, { platform, ...parts })), platform };
  };
  const names = (images: Awaited<ReturnType<typeof resolve>>) =>
    images.map(({ platform }) => (platform === undefined ? '?' : formatPlatform(platform)));

  test('gives the layers of a manifest, bottom-most first, with their DiffIDs', async () => {
    const layers = [Buffer.from('bottom'), Buffer.from('middle'), Buffer.from('top')];
    const built = await buildImage(put, { layers });
    const [found, ...rest] = await resolve(built);
    assert.equal(rest.length, 0);
    assert.equal(found?.manifestDigest, built.digest);
    assert.match(found?.configDigest ?? '', /^sha256:/);
    assert.deepEqual(
      found?.layers.map(({ diff, blob }) => [diff.digest, blob.digest, blob.size]),
      layers.map((bytes) => [digestOf(bytes), digestOf(bytes), bytes.length]),
    );
  });

  test('takes non-distributable layers, and layer types with odd endings, parameters and capitals', async () => {
    for (const layerType of [
      'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
      'application/vnd.oci.image.layer.nondistributable.v1.tar+zstd',
      'application/vnd.docker.image.rootfs.diff.tar+gzip',
      'application/vnd.docker.image.rootfs.diff.tar.gz',
      'application/vnd.oci.image.layer.v1.tar+gzip; charset=utf-8',
      'APPLICATION/VND.OCI.IMAGE.LAYER.V1.TAR',
    ]) {
      const [found] = await resolve(await buildImage(put, { layerType }));
      assert.equal(found?.layers.length, 1, layerType);
    }
  });

  test('gives explicit layers as they are, without a request', async () => {
    const layers = [
      {
        diff: { digest: digestOf(Buffer.from('a')) as string as never },
        blob: { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: digestOf(Buffer.from('a')), size: 1 },
      },
    ];
    assert.deepEqual(await resolveImages(source, { target: { kind: 'layers', layers } }), [{ layers }]);
  });

  test('refuses explicit layers of unknown kinds, and no layers', async () => {
    const blob = { mediaType: 'text/plain', digest: digestOf(Buffer.from('a')), size: 1 };
    const layers = [{ diff: { digest: digestOf(Buffer.from('a')) as string as never }, blob }];
    await fails('UNSUPPORTED_MEDIA_TYPE', resolveImages(source, { target: { kind: 'layers', layers } }));
    await fails('INVALID_JOB', resolveImages(source, { target: { kind: 'layers', layers: [] } }));
  });

  test('follows a tag', async () => {
    const built = await image('linux/amd64');
    const index = {
      schemaVersion: 2,
      manifests: [{ ...built, annotations: { 'org.opencontainers.image.ref.name': 'v1' } }],
    };
    await bucket.put('mirror/index.json', json(index));
    const target = { kind: 'tag', tag: 'v1' } as const;
    const [found] = await resolveImages(source, { target });
    assert.equal(found?.manifestDigest, built.digest);
    await fails('IMAGE_NOT_FOUND', resolveImages(source, { target: { kind: 'tag', tag: 'v2' } }));
  });

  describe('of an index', () => {
    test('takes the host platform unless told otherwise', async () => {
      const host = formatPlatform(hostPlatform());
      const index = await buildIndex(put, [
        await image('linux/s390x'),
        await image(host),
        await image('windows/amd64'),
      ]);
      assert.deepEqual(names(await resolve(index)), [host]);
    });

    test('takes the platforms that are asked for, in that order', async () => {
      const index = await buildIndex(put, [
        await image('linux/amd64'),
        await image('linux/s390x'),
        await image('linux/arm64'),
      ]);
      assert.deepEqual(names(await resolve(index, platforms('linux/s390x', 'linux/amd64'))), [
        'linux/s390x',
        'linux/amd64',
      ]);
    });

    test('takes the exact variant first and then the best older one', async () => {
      const index = await buildIndex(put, [
        await image('linux/arm/v5'),
        await image('linux/arm/v6'),
        await image('linux/arm/v7'),
      ]);
      assert.deepEqual(names(await resolve(index, platforms('linux/arm/v6'))), ['linux/arm/v6']);
      const older = await buildIndex(put, [await image('linux/arm/v5'), await image('linux/arm/v6')]);
      assert.deepEqual(names(await resolve(older, platforms('linux/arm/v7'))), ['linux/arm/v6']);
      await fails('PLATFORM_NOT_FOUND', resolve(older, platforms('linux/arm/v4')));
    });

    test('gives an image once when two platforms fall back to it', async () => {
      const index = await buildIndex(put, [await image('linux/arm/v6')]);
      assert.equal((await resolve(index, platforms('linux/arm/v7', 'linux/arm/v6'))).length, 1);
    });

    test('takes every image for "all", but no attestations and no artifacts', async () => {
      const attestation = {
        ...(await image('linux/amd64', { config: { a: 1 } })),
        platform: { os: 'unknown', architecture: 'unknown' },
      };
      const artifact = await buildImage(put, { manifest: { artifactType: 'application/vnd.example.sbom' } });
      const said = { ...artifact, artifactType: 'application/vnd.example.sbom' };
      const index = await buildIndex(put, [
        await image('linux/amd64'),
        attestation,
        artifact,
        said,
        await image('linux/arm64'),
      ]);
      assert.deepEqual(names(await resolve(index, 'all')), ['linux/amd64', 'linux/arm64/v8']);
    });

    test('lists the platforms there are when none fits', async () => {
      const index = await buildIndex(put, [await image('linux/amd64'), await image('linux/arm64')]);
      const error = await fails('PLATFORM_NOT_FOUND', resolve(index, platforms('linux/riscv64')));
      assert.match(error.message, /no image for linux\/riscv64; it has linux\/amd64, linux\/arm64\/v8/);
      await fails('PLATFORM_NOT_FOUND', resolve(await buildIndex(put, []), 'all'));
      await fails('PLATFORM_NOT_FOUND', resolve(await buildIndex(put, [])));
    });

    test('learns the platform of entries that do not say it from their configs', async () => {
      const index = await buildIndex(put, [
        { ...(await image('linux/amd64')), platform: undefined },
        { ...(await image('linux/s390x')), platform: undefined },
      ]);
      assert.deepEqual(names(await resolve(index, platforms('linux/s390x'))), ['linux/s390x']);
    });

    test('finds images in nested indexes, to a depth', async () => {
      let index = await buildIndex(put, [await image('linux/arm64')]);
      index = await buildIndex(put, [await image('linux/amd64'), index]);
      index = await buildIndex(put, [index]);
      assert.deepEqual(names(await resolve(index, platforms('linux/arm64'))), ['linux/arm64/v8']);
      index = await buildIndex(put, [await buildIndex(put, [index])]);
      await fails('MANIFEST_INVALID', resolve(index, platforms('linux/arm64')));
    });

    test('does not follow indexes without end', async () => {
      const leaves = await Promise.all(
        Array.from({ length: 300 }, (_, n) => buildIndex(put, [], { annotations: { n: String(n) } })),
      );
      await fails('LIMIT_EXCEEDED', resolve(await buildIndex(put, leaves)));
    });

    test('reads Docker manifest lists', async () => {
      const list = await buildIndex(put, [await image('linux/amd64')], { mediaType: DOCKER_LIST });
      assert.deepEqual(names(await resolve(list, platforms('linux/amd64'))), ['linux/amd64']);
    });

    test('says IMAGE_NOT_FOUND when a manifest that it lists is missing', async () => {
      const missing = { ...(await image('linux/amd64')), digest: digestOf(Buffer.from('nowhere')) };
      const index = await buildIndex(put, [missing]);
      const error = await fails('IMAGE_NOT_FOUND', resolve(index, platforms('linux/amd64')));
      assert.equal(error.details.digest, missing.digest);
    });

    test('says BLOB_SIZE_MISMATCH when a manifest has another size than the index says', async () => {
      const entry = await image('linux/amd64');
      const index = await buildIndex(put, [{ ...entry, size: entry.size + 1 }]);
      await fails('BLOB_SIZE_MISMATCH', resolve(index, platforms('linux/amd64')));
    });

    test('is refused when its entry promises another media type than the manifest has', async () => {
      const entry = await image('linux/amd64');
      const index = await buildIndex(put, [
        { ...entry, mediaType: 'application/vnd.docker.distribution.manifest.v2+json' },
      ]);
      await fails('MANIFEST_INVALID', resolve(index, platforms('linux/amd64')));
    });
  });

  describe('of a single manifest', () => {
    test('accepts any platform when none is asked for', async () => {
      assert.deepEqual(names(await resolve(await image('windows/amd64'))), ['windows/amd64']);
      assert.deepEqual(names(await resolve(await image('linux/s390x'), 'all')), ['linux/s390x']);
    });

    test('compares a platform that is asked for with the config', async () => {
      const built = await image('linux/arm/v6');
      assert.equal((await resolve(built, platforms('linux/arm/v7'))).length, 1);
      const error = await fails('PLATFORM_NOT_FOUND', resolve(built, platforms('linux/amd64')));
      assert.match(error.message, /one image for linux\/arm\/v6, not for linux\/amd64/);
    });

    test('needs the config to name its platform only when one is asked for', async () => {
      const built = await buildImage(put, { config: { os: undefined, architecture: undefined } });
      assert.deepEqual(names(await resolve(built)), ['?']);
      await fails('PLATFORM_NOT_FOUND', resolve(built, platforms('linux/amd64')));
    });
  });

  describe('fails', () => {
    test('with IMAGE_NOT_FOUND when the manifest is missing', async () => {
      await fails('IMAGE_NOT_FOUND', resolve({ digest: digestOf(Buffer.from('nowhere')) }));
    });

    test('with BLOB_NOT_FOUND when the config is missing', async () => {
      const config = { mediaType: OCI_CONFIG, digest: digestOf(Buffer.from('nowhere')), size: 7 };
      await fails('BLOB_NOT_FOUND', resolve(await buildImage(put, { manifest: { config } })));
    });

    test('with BLOB_DIGEST_MISMATCH when the manifest is another', async () => {
      const digest: BlobDigest = digestOf(Buffer.from('what was meant'));
      await bucket.put(`mirror/blobs/sha256/${digest.slice(7)}`, json({ schemaVersion: 2 }));
      await fails('BLOB_DIGEST_MISMATCH', resolve({ digest }));
    });

    test('with LIMIT_EXCEEDED when the manifest is too long', async () => {
      await fails('LIMIT_EXCEEDED', resolve(await put(Buffer.alloc(5 * 1024 * 1024, ' '), OCI_MANIFEST)));
    });

    test('with MANIFEST_INVALID when layers and DiffIDs do not pair', async () => {
      const rootfs = { type: 'layers', diff_ids: [] };
      const error = await fails('MANIFEST_INVALID', resolve(await buildImage(put, { config: { rootfs } })));
      assert.match(error.message, /1 layers and its config 0 diff_ids/);
    });

    test('with MANIFEST_INVALID when there are no layers', async () => {
      await fails('MANIFEST_INVALID', resolve(await buildImage(put, { layers: [] })));
    });

    test('with UNSUPPORTED_MEDIA_TYPE for what is no layer, before the config is read', async () => {
      const config = { mediaType: OCI_CONFIG, digest: digestOf(Buffer.from('nowhere')), size: 7 };
      for (const [layerType, says] of [
        ['application/vnd.oci.image.layer.nydus.blob.v1', /layer 1 of 1: .*is not a layer media type/],
        ['application/vnd.in-toto+json', /layer 1 of 1: .*is not a layer media type/],
        ['application/vnd.oci.image.layer.v1.tar+gzip+encrypted', /layer 1 of 1: the layer is encrypted/],
      ] as const) {
        const error = await fails(
          'UNSUPPORTED_MEDIA_TYPE',
          resolve(await buildImage(put, { layerType, manifest: { config } })),
        );
        assert.match(error.message, says);
        assert.equal(error.details.layerIndex, 0);
      }
    });

    test('with UNSUPPORTED_MEDIA_TYPE for an artifact', async () => {
      const artifact = await buildImage(put, { manifest: { artifactType: 'application/vnd.example' } });
      await fails('UNSUPPORTED_MEDIA_TYPE', resolve(artifact));
    });

    test('at once when it is aborted', async () => {
      const proxy = await startFaultyProxy({ target: bucket.server.endpoint, rules: [{ fault: { kind: 'silence' } }] });
      // an hour of silence would be allowed: whatever ends it is the abort
      const connection = bucket.connection({ endpoint: proxy.endpoint, idleTimeout: 3_600_000 });
      const silent = openSource(bucket.spec({ connection }));
      try {
        const abort = new AbortController();
        const resolving = resolveImages(silent, { target: { kind: 'tag', tag: 'v1' } }, { signal: abort.signal });
        while (proxy.seen.length === 0) await sleep(5);
        abort.abort(new UnpackError('TIMED_OUT', 'enough'));
        await fails('TIMED_OUT', resolving);
      } finally {
        silent.close();
        await proxy.close();
      }
    });
  });
});
