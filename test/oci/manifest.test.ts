import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type FailureCode, UnpackError } from '../../src/errors.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { parseConfig } from '../../src/oci/image-config.ts';
import { findTag, parseDocument, parseIndex, REF_NAME } from '../../src/oci/manifest.ts';
import {
  DOCKER_CONFIG,
  DOCKER_LIST,
  DOCKER_MANIFEST,
  OCI_CONFIG,
  OCI_INDEX,
  OCI_MANIFEST,
} from '../../src/oci/media-type.ts';

const digest = digestOf(Buffer.from('something'));
const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size: 7 };
const config = { mediaType: OCI_CONFIG, digest, size: 3 };
const manifest = { schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [layer] };
const index = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [{ mediaType: OCI_MANIFEST, digest, size: 9 }] };
const parse = (value: unknown, promised?: string) => parseDocument(Buffer.from(JSON.stringify(value)), 'it', promised);

function fails(code: FailureCode, action: () => unknown): UnpackError {
  let thrown: unknown;
  try {
    action();
  } catch (error) {
    thrown = error;
  }
  assert.ok(thrown instanceof UnpackError, `expected ${code}, got ${String(thrown)}`);
  assert.equal(thrown.code, code, thrown.message);
  return thrown;
}

describe('a manifest or index', () => {
  test('is read as OCI and as Docker schema 2', () => {
    assert.deepEqual(parse(manifest), { kind: 'manifest', config, layers: [layer] });
    const docker = { ...manifest, mediaType: DOCKER_MANIFEST, config: { ...config, mediaType: DOCKER_CONFIG } };
    assert.equal(parse(docker, DOCKER_MANIFEST).kind, 'manifest');
    assert.equal(parse(index).kind, 'index');
    assert.equal(parse({ ...index, mediaType: DOCKER_LIST }).kind, 'index');
  });

  test('without a media type is told by its fields', () => {
    assert.equal(parse({ ...manifest, mediaType: undefined }).kind, 'manifest');
    assert.equal(parse({ ...index, mediaType: undefined }).kind, 'index');
    fails('MANIFEST_INVALID', () => parse({ schemaVersion: 2 }));
  });

  test('that has the fields of both is refused', () => {
    const both = { ...manifest, ...index };
    for (const mediaType of [undefined, OCI_INDEX, OCI_MANIFEST]) {
      fails('MANIFEST_INVALID', () => parse({ ...both, mediaType }));
    }
    fails('MANIFEST_INVALID', () => parse({ ...index, config }));
    fails('MANIFEST_INVALID', () => parse({ ...index, layers: [] }));
  });

  test('whose media type contradicts its fields or its descriptor is refused', () => {
    fails('MANIFEST_INVALID', () => parse({ ...manifest, mediaType: OCI_INDEX }));
    fails('MANIFEST_INVALID', () => parse(manifest, OCI_INDEX));
    fails('MANIFEST_INVALID', () => parse(manifest, DOCKER_MANIFEST));
    fails('MANIFEST_INVALID', () => parse({ ...index, mediaType: undefined }, OCI_MANIFEST));
  });

  test('of Docker schema 1 is unsupported, signed or not', () => {
    const schema1 = { schemaVersion: 1, name: 'a/b', tag: 'v1', fsLayers: [{ blobSum: digest }], history: [] };
    const error = fails('UNSUPPORTED_MEDIA_TYPE', () => parse(schema1));
    assert.match(error.message, /schema 1/);
    fails('UNSUPPORTED_MEDIA_TYPE', () => parse({ ...schema1, schemaVersion: 2 }));
    fails('UNSUPPORTED_MEDIA_TYPE', () =>
      parse({ mediaType: 'application/vnd.docker.distribution.manifest.v1+prettyjws' }),
    );
  });

  test('of another media type is unsupported', () => {
    fails('UNSUPPORTED_MEDIA_TYPE', () => parse({ ...manifest, mediaType: 'text/html' }));
    fails('UNSUPPORTED_MEDIA_TYPE', () => parse({ ...manifest, mediaType: undefined }, 'text/html'));
  });

  test('of an artifact is unsupported, in each of the forms that artifacts have', () => {
    const empty = { ...config, mediaType: 'application/vnd.oci.empty.v1+json' };
    for (const artifact of [
      { ...manifest, artifactType: 'application/vnd.example.sbom', config: empty },
      { ...manifest, artifactType: 'application/vnd.example.sbom' },
      { ...manifest, config: { ...config, mediaType: 'application/vnd.cncf.helm.config.v1+json' } },
    ]) {
      const error = fails('UNSUPPORTED_MEDIA_TYPE', () => parse(artifact));
      assert.match(error.message, /artifact/);
    }
  });

  test('with a wrong field is refused in a sentence that names the field', () => {
    for (const [wrong, field] of [
      [{ ...manifest, layers: [{ ...layer, digest: 'sha256:abc' }] }, /layers\.0\.digest/],
      [{ ...manifest, layers: [{ ...layer, digest: 'md5:abc' }] }, /layers\.0\.digest/],
      [{ ...manifest, layers: [{ ...layer, size: -1 }] }, /layers\.0\.size/],
      [{ ...manifest, layers: [{ ...layer, size: 1.5 }] }, /layers\.0\.size/],
      [{ ...manifest, layers: [{ ...layer, size: 2 ** 60 }] }, /layers\.0\.size/],
      [{ ...manifest, layers: {} }, /layers/],
      [{ ...manifest, config: undefined }, /config/],
      [{ ...manifest, schemaVersion: 3 }, /schemaVersion/],
      [{ ...manifest, schemaVersion: undefined }, /schemaVersion/],
      [[], /it/],
      [null, /it/],
    ] as const) {
      assert.match(fails('MANIFEST_INVALID', () => parse(wrong)).message, field);
    }
  });

  test('that is not JSON or not UTF-8 is refused', () => {
    fails('MANIFEST_INVALID', () => parseDocument(Buffer.from('{'), 'it'));
    fails('MANIFEST_INVALID', () => parseDocument(Buffer.from([0x22, 0xff, 0x22]), 'it'));
    fails('MANIFEST_INVALID', () => parseDocument(Buffer.alloc(0), 'it'));
  });

  test('with fields that null out, as Go writes empty ones, is read', () => {
    const sparse = { ...manifest, layers: [{ ...layer, urls: null, annotations: null, platform: null }] };
    assert.deepEqual(parse(sparse), { kind: 'manifest', config, layers: [layer] });
  });

  test('with hostile JSON does no harm', () => {
    const deep = `${'['.repeat(1_000_000)}${']'.repeat(1_000_000)}`;
    const text = JSON.stringify(manifest);
    parseDocument(Buffer.from(`${text.slice(0, -1)},"annotations":${deep}}`), 'it');
    const polluted = parseDocument(Buffer.from(`${text.slice(0, -1)},"__proto__":{"manifests":[]}}`), 'it');
    assert.equal(polluted.kind, 'manifest');
    const twice = parseDocument(Buffer.from(`{"layers":[],${text.slice(1)}`), 'it');
    assert.deepEqual(twice.kind === 'manifest' && twice.layers, [layer], 'the last of two equal keys counts');
    const annotated = { ...layer, annotations: JSON.parse('{"__proto__":"x","a":"b"}') };
    parse({ ...manifest, layers: [annotated] });
    assert.equal(Object.hasOwn(Object.prototype, 'manifests'), false);
  });

  test('with many layers is read in reasonable time', () => {
    const started = performance.now();
    parse({ ...manifest, layers: Array.from({ length: 20_000 }, () => layer) });
    assert.ok(performance.now() - started < 2000);
  });
});

describe('a tag in an index', () => {
  const entry = (tag: string, content = 'x') => ({
    mediaType: OCI_MANIFEST,
    digest: digestOf(Buffer.from(content)),
    size: 1,
    annotations: { [REF_NAME]: tag },
  });
  const tagged = (...manifests: object[]) =>
    parseIndex(Buffer.from(JSON.stringify({ schemaVersion: 2, manifests })), 'index.json');

  test('is found by its annotation', () => {
    assert.equal(findTag(tagged(entry('a', '1'), entry('b', '2')), 'b', 'it').digest, digestOf(Buffer.from('2')));
  });

  test('that is missing gives IMAGE_NOT_FOUND and the tags there are', () => {
    assert.match(fails('IMAGE_NOT_FOUND', () => findTag(tagged(entry('a')), 'c', 'it')).message, /its tags: a/);
    fails('IMAGE_NOT_FOUND', () => findTag(tagged(), 'c', 'it'));
  });

  test('of several images is refused', () => {
    fails('MANIFEST_INVALID', () => findTag(tagged(entry('a', '1'), entry('a', '2')), 'a', 'it'));
    findTag(tagged(entry('a', '1'), entry('a', '1')), 'a', 'it');
  });

  test('is not looked for in a manifest', () => {
    fails('MANIFEST_INVALID', () => parseIndex(Buffer.from(JSON.stringify(manifest)), 'index.json'));
  });
});

describe('an image config', () => {
  const parseIt = (value: unknown) => parseConfig(Buffer.from(JSON.stringify(value)), 'it');

  test('gives platform and DiffIDs', () => {
    const rootfs = { type: 'layers', diff_ids: [digest] };
    assert.deepEqual(parseIt({ os: 'linux', architecture: 'arm', variant: 'v6', rootfs }), {
      platform: { os: 'linux', architecture: 'arm', variant: 'v6' },
      diffIds: [digest],
    });
    assert.deepEqual(parseIt({ rootfs }), { diffIds: [digest] });
  });

  test('without a root file system or with another kind is refused', () => {
    for (const wrong of [{}, { rootfs: { type: 'squashfs', diff_ids: [] } }, { rootfs: { type: 'layers' } }, []]) {
      fails('MANIFEST_INVALID', () => parseIt(wrong));
    }
    fails('MANIFEST_INVALID', () => parseIt({ rootfs: { type: 'layers', diff_ids: ['sha256:0'] } }));
  });
});
