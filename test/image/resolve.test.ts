import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { UnpackError } from '../../src/errors.ts';
import { resolveImages } from '../../src/image/resolve.ts';
import { chainLayers, type Descriptor } from '../../src/oci/descriptor.ts';
import { type BlobDigest, digestOf } from '../../src/oci/digest.ts';
import { DOCKER_LIST, OCI_CONFIG, OCI_MANIFEST } from '../../src/oci/media-type.ts';
import { formatPlatform, hostPlatform, type Platform, parsePlatform } from '../../src/oci/platform.ts';
import type { BlobSource } from '../../src/source/blob-source.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { startTestBucket, type TestBucket } from '../support/bucket.ts';
import { fails } from '../support/fails.ts';
import { startFaultyProxy } from '../support/faulty-s3.ts';
import { buildImage, buildIndex, json, type PutBlob } from '../support/image-builder.ts';

const platforms = (...names: string[]): Platform[] => names.map(parsePlatform);

/** An entry that is not for linux/amd64, with fields removed or replaced by arbitrary values. */
function deviation(entry: object): fc.Arbitrary<unknown> {
  const anything = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.constantFrom('sha384:00', -1, '7', '', 'text/html', {}));
  const platform = fc.oneof(
    fc.constantFrom(null, {}, { os: '', architecture: '' }, { architecture: 's390x' }, { os: 'linux' }, 'linux/amd64'),
    fc.record({
      os: fc.constantFrom('linux', 'windows'),
      architecture: fc.constantFrom('arm64', '', 7, 'constructor'),
    }),
    fc.record({
      os: fc.constantFrom(5, ['linux'], {}),
      architecture: fc.constant('amd64'),
    }),
    fc.constantFrom(
      { os: 'linux', architecture: 'amd64', variant: 1 },
      { os: 'linux', architecture: 'amd64', 'os.features': 'x' },
      { os: 'linux', architecture: ['amd64'] },
    ),
    fc.constant({ os: 'linux', architecture: 'amd64', 'os.features': ['x'] }),
    fc.constant({ os: 'linux', architecture: 'amd64', variant: 'v9' }),
  );
  const fields = fc.dictionary(
    fc.constantFrom(
      'mediaType',
      'digest',
      'size',
      'annotations',
      'artifactType',
      'urls',
      'data',
      'Digest',
      '__proto__',
    ),
    fc.oneof(anything, fc.constant(undefined)),
  );
  return fc.oneof(
    { weight: 1, arbitrary: anything },
    { weight: 5, arbitrary: fc.tuple(platform, fields).map(([own, odd]) => ({ ...entry, platform: own, ...odd })) },
  );
}

describe('resolveImages', () => {
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

  test('returns the layers of a manifest, bottom-most first, with their DiffIDs', async () => {
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

  test('accepts non-distributable layers, and layer types with unusual suffixes, parameters and capitals', async () => {
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

  test('returns explicit layers unchanged, without a request', async () => {
    const layers = [
      {
        diff: { digest: digestOf(Buffer.from('a')) as string as never },
        blob: { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: digestOf(Buffer.from('a')), size: 1 },
      },
    ];
    assert.deepEqual(await resolveImages(source, { target: { kind: 'layers', layers } }), [
      { layers: chainLayers(layers), documents: new Map(), warnings: [] },
    ]);
  });

  test('refuses explicit layers of unknown types, and an empty list', async () => {
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

  test('chooses the image for the platform if a tag names several images', async () => {
    const [amd64, arm64] = [await image('linux/amd64'), await image('linux/arm64')];
    const annotations = { 'org.opencontainers.image.ref.name': 'v1' };
    const tagged = (...entries: object[]) =>
      bucket.put(
        'mirror/index.json',
        json({ schemaVersion: 2, manifests: entries.map((one) => ({ ...one, annotations })) }),
      );
    const v1 = (wanted: readonly Platform[] | 'all') =>
      resolveImages(source, { target: { kind: 'tag', tag: 'v1' }, platforms: wanted });

    for (const platform of [{}, { platform: undefined }]) {
      await tagged({ ...amd64, ...platform }, { ...arm64, ...platform });
      assert.equal((await v1(platforms('linux/arm64')))[0]?.manifestDigest, arm64.digest);
      assert.deepEqual(names(await v1('all')), ['linux/amd64', 'linux/arm64/v8']);
      const error = await fails('PLATFORM_NOT_FOUND', v1(platforms('linux/s390x')));
      assert.match(
        error.message,
        /the tag "v1" of s3:.* has no image for linux\/s390x; it has linux\/amd64, linux\/arm64/,
      );
    }
    const other = await image('linux/amd64', { config: { author: 'another' } });
    for (const platform of [{}, { platform: undefined }]) {
      await tagged({ ...amd64, ...platform }, { ...other, ...platform });
      const error = await fails('MANIFEST_INVALID', v1(platforms('linux/amd64')));
      assert.match(error.message, /the tag "v1" of .* has 2 images for linux\/amd64; name one by its digest/);
    }
  });

  test('resolves an image without layers', async () => {
    for (const [layers, diffIds] of [
      [[], []],
      [null, null],
      [undefined, []],
      [[], undefined],
    ]) {
      const rootfs = { type: 'layers', diff_ids: diffIds };
      const [found, ...rest] = await resolve(await buildImage(put, { manifest: { layers }, config: { rootfs } }));
      assert.deepEqual([found?.layers, rest], [[], []]);
    }
  });

  test('leaves out blobs that are not layers if the config has DiffIDs for the others only', async () => {
    const sbom = await put(Buffer.from('{}'), 'application/spdx+json');
    const layer = await put(Buffer.from('a layer'), 'application/vnd.oci.image.layer.v1.tar');
    const rootfs = (...diffIds: string[]) => ({ rootfs: { type: 'layers', diff_ids: diffIds } });
    const layers = [layer, sbom];
    const mixed = await buildImage(put, { manifest: { layers }, config: rootfs(layer.digest) });
    const [found] = await resolve(mixed);
    assert.deepEqual(
      found?.layers.map(({ blob }) => blob.digest),
      [layer.digest],
    );
    assert.match(found?.warnings.join() ?? '', /layer 2 of 2: .*is not a layer media type.*; it was left out/);
    const meant = { manifest: { layers }, config: rootfs(layer.digest, sbom.digest) };
    await fails('UNSUPPORTED_MEDIA_TYPE', resolve(await buildImage(put, meant)));
    const alone = { manifest: { layers: [sbom] }, config: rootfs() };
    await fails('UNSUPPORTED_MEDIA_TYPE', resolve(await buildImage(put, alone)));
  });

  test('accepts an image config under any media type, with a warning', async () => {
    const rootfs = { type: 'layers', diff_ids: [digestOf(Buffer.from('x'))] };
    const config = await put(json({ rootfs }), 'application/vnd.example.config.v1+json');
    const artifactType = 'application/vnd.example';
    const [found] = await resolve(
      await buildImage(put, { layers: [Buffer.from('x')], manifest: { config, artifactType } }),
    );
    assert.equal(found?.layers.length, 1);
    assert.match(found?.warnings.join() ?? '', /config.mediaType is .*; treated as the config.*artifactType is/);
  });

  test('reads a config or a manifest that is embedded in its descriptor', async () => {
    const bytes = json({ os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: [] }, only: 'here' });
    const config = { mediaType: OCI_CONFIG, digest: digestOf(bytes), size: bytes.length };
    const data = bytes.toString('base64');
    const [found] = await resolve(await buildImage(put, { manifest: { layers: [], config: { ...config, data } } }));
    assert.equal(found?.configDigest, config.digest);
    // its embedded data has another digest, so the blob is read from the bucket, which lacks it
    const wrong = Buffer.from(bytes)
      .fill(0x20, bytes.length - 1)
      .toString('base64');
    for (const other of [wrong, 'no base64!', '', 5]) {
      const manifest = { layers: [], config: { ...config, data: other } };
      await fails('BLOB_NOT_FOUND', resolve(await buildImage(put, { manifest })));
    }
  });

  test('warns of every document that deviates from the specification', async () => {
    const config = { rootfs: { diff_ids: [digestOf(Buffer.from('x'))] }, os: '' };
    const parts = { layers: [Buffer.from('x')], config, manifest: { schemaVersion: undefined } };
    const entry = { ...(await buildImage(put, parts)), mediaType: '', platform: { architecture: 'AMD64' } };
    const index = await buildIndex(put, [entry], { schemaVersion: '2' });
    const [found] = await resolve(index, platforms('linux/amd64'));
    const said = found?.warnings ?? [];
    for (const expected of [
      /^document sha256:.*schemaVersion is "2"; treated as 2$/,
      /manifests\[0\]\.platform\.os is missing; treated as linux$/,
      /the media type in its descriptor is ""; its fields decide what it is$/,
      /schemaVersion is missing; treated as 2$/,
      /^config sha256:.*rootfs\.type is missing; treated as "layers"$/,
      /^config sha256:.*os is empty; treated as linux$/,
    ]) {
      assert.equal(said.filter((warning) => expected.test(warning)).length, 1, `${expected}\n${said.join('\n')}`);
    }
    assert.equal(said.length, 6);
    assert.deepEqual((await resolve(await image('linux/amd64')))[0]?.warnings, []);
  });

  describe('of an index', () => {
    test('chooses the host platform by default', async () => {
      const host = formatPlatform(hostPlatform());
      const index = await buildIndex(put, [
        await image('linux/s390x'),
        await image(host),
        await image('windows/amd64'),
      ]);
      assert.deepEqual(names(await resolve(index)), [host]);
    });

    test('returns the requested platforms in their order', async () => {
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

    test('prefers the exact variant, then the newest older one', async () => {
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

    test('returns an image once if two platforms fall back to it', async () => {
      const index = await buildIndex(put, [await image('linux/arm/v6')]);
      assert.equal((await resolve(index, platforms('linux/arm/v7', 'linux/arm/v6'))).length, 1);
    });

    test('returns every image for "all", without attestations and artifacts', async () => {
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

    test('for "all" leaves out invalid entries with a warning, and fails for a missing one', async () => {
      const amd64 = await image('linux/amd64');
      const wrong = { ...amd64, digest: 'blake3:00' };
      const nydus = await image('linux/s390x', { layerType: 'application/vnd.oci.image.layer.nydus.blob.v1' });
      const [found, ...rest] = await resolve(await buildIndex(put, [amd64, wrong, nydus]), 'all');
      assert.deepEqual([found?.manifestDigest, rest], [amd64.digest, []]);
      assert.match(found?.warnings[0] ?? '', /left out: .*manifests\[1\]\.digest must be a digest/);
      assert.match(found?.warnings[1] ?? '', /left out: .*is not a layer media type/);
      await fails('UNSUPPORTED_MEDIA_TYPE', resolve(await buildIndex(put, [nydus]), 'all'));
      const missing = { ...amd64, digest: digestOf(Buffer.from('nowhere')) };
      await fails('IMAGE_NOT_FOUND', resolve(await buildIndex(put, [amd64, missing]), 'all'));
    });

    test('ignores entries that need os.features', async () => {
      const nydus = await image('linux/amd64', { layerType: 'application/vnd.oci.image.layer.nydus.blob.v1' });
      const features = { ...nydus, platform: { ...nydus.platform, 'os.features': ['nydus.remoteimage.v1'] } };
      const plain = await image('linux/amd64');
      const [found] = await resolve(await buildIndex(put, [features, plain]), platforms('linux/amd64'));
      assert.equal(found?.manifestDigest, plain.digest);
      const error = await fails('PLATFORM_NOT_FOUND', resolve(await buildIndex(put, [features])));
      assert.match(error.message, /it has linux\(\+nydus.remoteimage.v1\)\/amd64/);
    });

    test('falls back to a 32-bit image with a warning', async () => {
      const index = await buildIndex(put, [await image('linux/386'), await image('linux/arm/v6')]);
      const [x86] = await resolve(index, platforms('linux/amd64'));
      assert.match(x86?.warnings.join() ?? '', /has no image for linux\/amd64; linux\/386 was chosen/);
      assert.deepEqual(names(await resolve(index, platforms('linux/arm64'))), ['linux/arm/v6']);
    });

    test('chooses an artifact only if nothing else fits, and never one without a platform', async () => {
      const artifactType = 'application/vnd.example.sbom';
      const [first, second] = [await image('linux/amd64', { config: { a: 1 } }), await image('linux/amd64')];
      const [found] = await resolve(await buildIndex(put, [{ ...first, artifactType }, second]));
      assert.equal(found?.manifestDigest, second.digest);
      assert.equal((await resolve(await buildIndex(put, [{ ...first, artifactType }]))).length, 1);
      await fails('PLATFORM_NOT_FOUND', resolve(await buildIndex(put, [{ ...first, artifactType, platform: null }])));
    });

    test('reads entries without a platform only if no other fits, and skips entries that cannot be read', async () => {
      const amd64 = await image('linux/amd64');
      const absent = { ...amd64, digest: digestOf(Buffer.from('nowhere')), platform: {} };
      const unnamed = { ...amd64, platform: { os: '', architecture: '' } };
      const [found] = await resolve(await buildIndex(put, [absent, unnamed]), platforms('linux/amd64'));
      assert.equal(found?.manifestDigest, amd64.digest);
      const [named] = await resolve(await buildIndex(put, [absent, amd64]), platforms('linux/amd64'));
      assert.equal(named?.manifestDigest, amd64.digest);
      // the missing entry may be the right one and may still be uploaded
      await fails('IMAGE_NOT_FOUND', resolve(await buildIndex(put, [absent]), platforms('linux/amd64')));
    });

    test('fails with the problem of the chosen entry', async () => {
      const amd64 = await image('linux/amd64');
      for (const wrong of [{ digest: 'blake3:00' }, { size: -1 }, { size: '7' }, { digest: null }]) {
        const index = await buildIndex(put, [{ ...amd64, ...wrong }, await image('linux/386')]);
        const error = await fails('MANIFEST_INVALID', resolve(index, platforms('linux/amd64')));
        assert.match(error.message, /manifests\[0\]\.(digest|size) /);
      }
    });

    test('ignores any content of the other entries', async () => {
      const amd64 = await image('linux/amd64');
      const nested = await buildIndex(put, [await image('linux/s390x')]);
      await fc.assert(
        fc.asyncProperty(
          fc.array(deviation(amd64), { maxLength: 4 }),
          fc.array(deviation(nested), { maxLength: 4 }),
          async (before, after) => {
            const index = await buildIndex(put, [...before, amd64, ...after]);
            for (const wanted of [undefined, platforms('linux/amd64')]) {
              const [found, ...rest] = await resolve(index, wanted);
              assert.deepEqual([found?.manifestDigest, found?.warnings, rest], [amd64.digest, [], []]);
            }
          },
        ),
        { numRuns: 60 },
      );
    });

    test('lists the available platforms if none fits', async () => {
      const index = await buildIndex(put, [await image('linux/amd64'), await image('linux/arm64')]);
      const error = await fails('PLATFORM_NOT_FOUND', resolve(index, platforms('linux/riscv64')));
      assert.match(error.message, /no image for linux\/riscv64; it has linux\/amd64, linux\/arm64\/v8/);
      await fails('PLATFORM_NOT_FOUND', resolve(await buildIndex(put, []), 'all'));
      await fails('PLATFORM_NOT_FOUND', resolve(await buildIndex(put, [])));
    });

    test('finds the platform of an entry without one in its config', async () => {
      const index = await buildIndex(put, [
        { ...(await image('linux/amd64')), platform: undefined },
        { ...(await image('linux/s390x')), platform: undefined },
      ]);
      assert.deepEqual(names(await resolve(index, platforms('linux/s390x'))), ['linux/s390x']);
    });

    test('finds images in nested indexes up to a maximum depth', async () => {
      const inner = await buildIndex(put, [await image('linux/arm64')]);
      const middle = await buildIndex(put, [await image('linux/amd64'), inner]);
      let index = await buildIndex(put, [middle]);
      const found = await resolve(index, platforms('linux/arm64'));
      assert.deepEqual(names(found), ['linux/arm64/v8']);
      const documents = [found[0]?.manifestDigest, found[0]?.configDigest, index.digest, middle.digest, inner.digest];
      assert.deepEqual([...(found[0]?.documents.keys() ?? [])].sort(), documents.sort());
      index = await buildIndex(put, [await buildIndex(put, [index])]);
      await fails('MANIFEST_INVALID', resolve(index, platforms('linux/arm64')));
    });

    test('limits the number of indexes that it reads', async () => {
      const leaves = await Promise.all(
        Array.from({ length: 300 }, (_, n) => buildIndex(put, [], { annotations: { n: String(n) } })),
      );
      await fails('LIMIT_EXCEEDED', resolve(await buildIndex(put, leaves)));
    });

    test('reads Docker manifest lists', async () => {
      const list = await buildIndex(put, [await image('linux/amd64')], { mediaType: DOCKER_LIST });
      assert.deepEqual(names(await resolve(list, platforms('linux/amd64'))), ['linux/amd64']);
    });

    test('fails with IMAGE_NOT_FOUND if a listed manifest is missing', async () => {
      const missing = { ...(await image('linux/amd64')), digest: digestOf(Buffer.from('nowhere')) };
      const index = await buildIndex(put, [missing]);
      const error = await fails('IMAGE_NOT_FOUND', resolve(index, platforms('linux/amd64')));
      assert.equal(error.details.digest, missing.digest);
    });

    test('fails with BLOB_SIZE_MISMATCH if a manifest does not have the size in the index', async () => {
      const entry = await image('linux/amd64');
      const index = await buildIndex(put, [{ ...entry, size: entry.size + 1 }]);
      await fails('BLOB_SIZE_MISMATCH', resolve(index, platforms('linux/amd64')));
    });

    test('accepts an entry whose type is Docker and whose manifest is OCI, or the reverse, with a warning', async () => {
      const entry = await image('linux/amd64');
      const mediaType = 'application/vnd.docker.distribution.manifest.v2+json';
      const [found] = await resolve(await buildIndex(put, [{ ...entry, mediaType }]), platforms('linux/amd64'));
      assert.match(found?.warnings.join() ?? '', /treated as an image manifest/);
    });
  });

  describe('of a single manifest', () => {
    test('accepts any platform if none is requested', async () => {
      assert.deepEqual(names(await resolve(await image('windows/amd64'))), ['windows/amd64']);
      assert.deepEqual(names(await resolve(await image('linux/s390x'), 'all')), ['linux/s390x']);
    });

    test('compares a requested platform with the config', async () => {
      const built = await image('linux/arm/v6');
      assert.equal((await resolve(built, platforms('linux/arm/v7'))).length, 1);
      const error = await fails('PLATFORM_NOT_FOUND', resolve(built, platforms('linux/amd64')));
      assert.match(error.message, /one image for linux\/arm\/v6, not for linux\/amd64/);
    });

    test('requires a platform in the config only if one is requested', async () => {
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

    test('with BLOB_DIGEST_MISMATCH if the manifest was replaced', async () => {
      const digest: BlobDigest = digestOf(Buffer.from('what was meant'));
      await bucket.put(`mirror/blobs/sha256/${digest.slice(7)}`, json({ schemaVersion: 2 }));
      await fails('BLOB_DIGEST_MISMATCH', resolve({ digest }));
    });

    test('with LIMIT_EXCEEDED when the manifest is too long', async () => {
      await fails('LIMIT_EXCEEDED', resolve(await put(Buffer.alloc(5 * 1024 * 1024, ' '), OCI_MANIFEST)));
    });

    test('with MANIFEST_INVALID if the numbers of layers and DiffIDs differ', async () => {
      const rootfs = { type: 'layers', diff_ids: [] };
      const error = await fails('MANIFEST_INVALID', resolve(await buildImage(put, { config: { rootfs } })));
      assert.match(error.message, /1 layers and its config 0 diff_ids/);
    });

    test('with UNSUPPORTED_MEDIA_TYPE for blobs that are not layers, before the config is read', async () => {
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
      const config = (mediaType: string, value: unknown = {}) => put(json(value), mediaType);
      const helm = 'application/vnd.cncf.helm.config.v1+json';
      for (const manifest of [
        { config: await config(helm) },
        { config: await config('application/vnd.oci.empty.v1+json'), artifactType: 'application/vnd.example' },
        { config: await config('application/vnd.wasm.config.v0+json', { os: 'wasip1', architecture: 'wasm' }) },
        { config: await config('application/octet-stream', { name: 'a chart' }) },
        { config: await config('application/vnd.example.config.v1+json', { name: 'a model' }) },
        { config: await put(Buffer.from('not JSON'), 'application/octet-stream') },
        { artifactType: 'application/vnd.example', layers: [] },
      ]) {
        const error = await fails('UNSUPPORTED_MEDIA_TYPE', resolve(await buildImage(put, { manifest })));
        assert.match(error.message, /artifact/);
      }
    });

    test('at once when the signal is aborted', async () => {
      const proxy = await startFaultyProxy({ target: bucket.server.endpoint, rules: [{ fault: { kind: 'silence' } }] });
      // the idle timeout is an hour, so only the abort can end the read
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
