import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type FailureCode, UnpackError } from '../../src/errors.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { parseConfig } from '../../src/oci/image-config.ts';
import { findTag, REF_NAME } from '../../src/oci/image-index.ts';
import { parseDocument, parseIndex } from '../../src/oci/manifest.ts';
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
    assert.deepEqual(parse(manifest), {
      kind: 'manifest',
      mediaType: OCI_MANIFEST,
      config,
      layers: [layer],
      warnings: [],
    });
    const docker = { ...manifest, mediaType: DOCKER_MANIFEST, config: { ...config, mediaType: DOCKER_CONFIG } };
    const kindAndType = (value: unknown, promised?: string) => {
      const { kind, mediaType } = parse(value, promised);
      return [kind, mediaType];
    };
    assert.deepEqual(kindAndType(docker, DOCKER_MANIFEST), ['manifest', DOCKER_MANIFEST]);
    assert.deepEqual(kindAndType(index), ['index', OCI_INDEX]);
    assert.deepEqual(kindAndType({ ...index, mediaType: DOCKER_LIST }), ['index', DOCKER_LIST]);
    assert.deepEqual(kindAndType({ ...index, mediaType: 'text/html' }), ['index', OCI_INDEX]);
  });

  test('without a media type is recognised by its fields', () => {
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
    fails('MANIFEST_INVALID', () => parse(manifest, DOCKER_LIST));
    fails('MANIFEST_INVALID', () => parse({ ...index, mediaType: undefined }, OCI_MANIFEST));
  });

  test('may mix OCI and Docker types, also with its descriptor', () => {
    const mixed = {
      ...manifest,
      layers: [{ ...layer, mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip' }],
    };
    const [warning, ...rest] = parse(mixed, DOCKER_MANIFEST).warnings;
    assert.match(
      warning ?? '',
      /^it: its mediaType is .*oci.*, its descriptor says .*docker.*treated as an image manifest$/,
    );
    assert.deepEqual(rest, []);
    assert.equal(parse(index, DOCKER_LIST).warnings.length, 1);
  });

  for (const [deviation, value, says] of [
    ['without a schemaVersion', { ...manifest, schemaVersion: undefined }, /schemaVersion is missing; treated as 2/],
    ['with a schemaVersion that is text', { ...manifest, schemaVersion: '2' }, /schemaVersion is "2"; treated as 2/],
    ['with another schemaVersion', { ...manifest, schemaVersion: 3 }, /schemaVersion is 3; treated as 2/],
    ['without layers', { ...manifest, layers: undefined }, /layers is missing; treated as an empty list/],
    ['with layers that are null', { ...manifest, layers: null }, /layers is null; treated as an empty list/],
    ['with a list of manifests that is null', { ...index, manifests: null }, /manifests is null; .* empty list/],
    [
      'with a media type of its own that is no text',
      { ...manifest, mediaType: 5 },
      /mediaType is 5, which was ignored/,
    ],
    ['with an empty media type of its own', { ...manifest, mediaType: '' }, /its mediaType is ""; its fields decide/],
    [
      'of a web page, as its media type says',
      { ...manifest, mediaType: 'text/html' },
      /text\/html"; its fields decide/,
    ],
    [
      'of a media type in capitals',
      { ...manifest, mediaType: OCI_MANIFEST.toUpperCase() },
      /treated as application\/vnd.oci/,
    ],
    ['of a media type with a parameter', { ...manifest, mediaType: `${OCI_MANIFEST}; charset=utf-8` }, /treated as/],
    ['whose config has no media type', { ...manifest, config: { digest, size: 3 } }, /config.mediaType is missing/],
    ['whose config has an empty media type', { ...manifest, config: { ...config, mediaType: '' } }, /config.mediaType/],
    ...['application/octet-stream', 'application/json', 'text/html', 'text/plain; charset=utf-8'].map(
      (mediaType) =>
        [
          `whose config is of ${mediaType}`,
          { ...manifest, config: { ...config, mediaType } },
          /config.mediaType is ".*"; treated as the config of an image/,
        ] as const,
    ),
    [
      'of an artifact that is an image',
      { ...manifest, artifactType: 'application/x' },
      /artifactType is .* as an image/,
    ],
    [
      'with names in capitals',
      { SchemaVersion: 2, config, Layers: [layer] },
      /SchemaVersion is treated as "schemaVersion"/,
    ],
  ] as const) {
    test(`${deviation} is read, with a warning`, () => {
      const { warnings } = parse(value);
      assert.match(warnings.join('\n'), says);
      for (const warning of warnings) assert.match(warning, /^it: /);
    });
  }

  test('with deviations in unused fields is read without a warning', () => {
    for (const value of [
      { ...manifest, mediaType: undefined },
      { ...manifest, artifactType: '', subject: null, annotations: null },
      { ...manifest, artifactType: OCI_CONFIG },
      { ...manifest, annotations: { n: 1 }, subject: 5, unknown: [] },
      { ...manifest, layers: [{ ...layer, annotations: { n: null }, urls: null, data: 7 }] },
    ]) {
      assert.deepEqual(parse(value).warnings, []);
    }
  });

  test('with a byte order mark or a name in Latin-1 is read, with a warning', () => {
    const marked = Buffer.concat([Buffer.from('efbbbf', 'hex'), Buffer.from(JSON.stringify(manifest))]);
    assert.match(parseDocument(marked, 'it').warnings.join(), /byte order mark/);
    const latin = Buffer.from(JSON.stringify({ ...manifest, annotations: { author: 'Jos\u00e9' } }), 'latin1');
    assert.match(parseDocument(latin, 'it').warnings.join(), /not UTF-8/);
  });

  test('that has a field in two spellings with different values is refused', () => {
    fails('MANIFEST_INVALID', () => parse({ ...manifest, Layers: [] }));
    assert.equal(parse({ ...manifest, Layers: [layer] }).kind, 'manifest');
    fails('MANIFEST_INVALID', () => parse({ ...manifest, Manifests: [] }));
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
    const mediaType = 'application/vnd.oci.artifact.manifest.v1+json';
    fails('UNSUPPORTED_MEDIA_TYPE', () => parse({ mediaType, blobs: [] }));
    fails('UNSUPPORTED_MEDIA_TYPE', () => parse({ ...manifest, mediaType: undefined }, mediaType));
  });

  test('of an artifact is unsupported, in each form of artifacts', () => {
    const empty = { ...config, mediaType: 'application/vnd.oci.empty.v1+json' };
    for (const artifact of [
      { ...manifest, artifactType: 'application/vnd.example.sbom', config: empty },
      { ...manifest, config: { ...config, mediaType: 'application/vnd.cncf.helm.config.v1+json' } },
    ]) {
      const error = fails('UNSUPPORTED_MEDIA_TYPE', () => parse(artifact));
      assert.match(error.message, /artifact/);
    }
  });

  test('with a wrong field is refused, and the error names the field', () => {
    for (const [wrong, field] of [
      [
        { ...manifest, layers: [{ ...layer, digest: 'sha256:abc' }] },
        /layers\[0\]\.digest must be a digest .*, and is "sha256:abc"/,
      ],
      [{ ...manifest, layers: [{ ...layer, digest: 'md5:abc' }] }, /layers\[0\]\.digest/],
      [{ ...manifest, layers: [{ ...layer, size: -1 }] }, /layers\[0\]\.size must be a number of bytes/],
      [{ ...manifest, layers: [{ ...layer, size: 1.5 }] }, /layers\[0\]\.size must be a number of bytes/],
      [{ ...manifest, layers: [{ ...layer, size: 2 ** 60 }] }, /layers\[0\]\.size must be a number of bytes/],
      [{ ...manifest, layers: {} }, /layers must be a list, and is an object/],
      [{ ...manifest, config: undefined }, /config is missing/],
      [{ ...manifest, layers: [null] }, /layers\[0\] must be an object, and is null/],
      [{ ...manifest, config: [] }, /config must be an object, and is a list/],
      [[], /it/],
      [null, /it/],
    ] as const) {
      assert.match(fails('MANIFEST_INVALID', () => parse(wrong)).message, field);
    }
  });

  test('that is not JSON is refused', () => {
    fails('MANIFEST_INVALID', () => parseDocument(Buffer.from('{'), 'it'));
    fails('MANIFEST_INVALID', () => parseDocument(Buffer.from([0x7b, 0xff, 0x7d]), 'it'));
    fails('MANIFEST_INVALID', () => parseDocument(Buffer.alloc(0), 'it'));
  });

  test('with null fields, as Go writes empty ones, is read', () => {
    const sparse = { ...manifest, layers: [{ ...layer, urls: null, annotations: null, platform: null }] };
    assert.deepEqual(parse(sparse), {
      kind: 'manifest',
      mediaType: OCI_MANIFEST,
      config,
      layers: [layer],
      warnings: [],
    });
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
    parse({ ...manifest, layers: Array.from({ length: 20_000 }, () => layer) });
  });
});

describe('a tag in an index', () => {
  const entry = (tag: string, content = 'x') => ({
    mediaType: OCI_MANIFEST,
    digest: digestOf(Buffer.from(content)),
    size: 1,
    annotations: { [REF_NAME]: tag },
  });
  const tagged = (...manifests: unknown[]) =>
    parseIndex(Buffer.from(JSON.stringify({ schemaVersion: 2, manifests })), 'index.json');

  test('is found by its annotation', () => {
    assert.equal(findTag(tagged(entry('a', '1'), entry('b', '2')), 'b', 'it').digest, digestOf(Buffer.from('2')));
  });

  test('that is missing gives IMAGE_NOT_FOUND and lists the tags', () => {
    assert.match(fails('IMAGE_NOT_FOUND', () => findTag(tagged(entry('a')), 'c', 'it')).message, /its tags: a/);
    assert.match(fails('IMAGE_NOT_FOUND', () => findTag(tagged(), 'c', 'it')).message, /it has no images/);
  });

  test('in an index without tags gives IMAGE_NOT_FOUND and lists the digests', () => {
    const untagged = { ...entry('a'), annotations: null, platform: { os: 'linux', architecture: 's390x' } };
    const { message } = fails('IMAGE_NOT_FOUND', () => findTag(tagged(untagged), 'c', 'it'));
    assert.ok(
      message.includes(`it has no tags; name an image by its digest: @${untagged.digest} (linux/s390x)`),
      message,
    );
  });

  test('of several images gives all of them', () => {
    assert.equal(findTag(tagged(entry('a', '1'), entry('a', '2')), 'a', 'it').entries?.length, 2);
    assert.equal(findTag(tagged(entry('a', '1'), entry('a', '1')), 'a', 'it').entries, undefined);
  });

  test('is found even if other entries are malformed', () => {
    const others = [
      null,
      [],
      'x',
      {},
      { digest: 'blake3:00' },
      { ...entry('b'), size: -1 },
      { ...entry('b'), size: '7' },
      { ...entry('b'), platform: 'linux/amd64' },
      { ...entry('b'), annotations: { [REF_NAME]: null } },
      { ...entry('b'), Digest: 'another' },
    ];
    const found = findTag(tagged(...others, entry('a', '1'), ...others), 'a', 'it');
    assert.equal(found.digest, digestOf(Buffer.from('1')));
    assert.deepEqual(found.warnings, []);
  });

  test('on a malformed entry is refused', () => {
    for (const wrong of [{ digest: 'blake3:00' }, { size: -1 }, { digest: undefined }]) {
      const error = fails('MANIFEST_INVALID', () => findTag(tagged({ ...entry('a'), ...wrong }), 'a', 'it'));
      assert.match(error.message, /manifests\[0\]\.(digest|size) /);
    }
  });

  test('is refused in a manifest', () => {
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
      hasRootfs: true,
      runtime: {},
      warnings: [],
    });
    assert.deepEqual(parseIt({ rootfs }), { diffIds: [digest], hasRootfs: true, runtime: {}, warnings: [] });
  });

  for (const [deviation, value, says] of [
    ['without a rootfs.type', { rootfs: { diff_ids: [digest] } }, /rootfs.type is missing; treated as "layers"/],
    ['with an empty rootfs.type', { rootfs: { type: '', diff_ids: [digest] } }, /rootfs.type is ""; /],
    [
      'with another rootfs.type',
      { rootfs: { type: 'layers+base', diff_ids: [digest] } },
      /rootfs.type is "layers\+base"/,
    ],
    [
      'with DiffIDs that are null',
      { rootfs: { type: 'layers', diff_ids: null } },
      /rootfs.diff_ids is null; .* empty list/,
    ],
    ['without DiffIDs', { rootfs: { type: 'layers' } }, /rootfs.diff_ids is missing; treated as an empty list/],
    [
      'without an operating system',
      { architecture: 'arm', rootfs: { type: 'layers', diff_ids: [] } },
      /os is missing; .* linux/,
    ],
    [
      'with a list of operating systems',
      { os: ['linux'], architecture: 'arm', rootfs: {} },
      /os is a list, so its platform was ignored/,
    ],
  ] as const) {
    test(`${deviation} is read, with a warning`, () => {
      const { warnings } = parseIt(value);
      assert.match(warnings.join('\n'), says);
    });
  }

  test('is read with any history and any other fields', () => {
    const rootfs = { type: 'layers', diff_ids: [digest] };
    const { warnings } = parseIt({
      rootfs,
      history: 5,
      created: [],
      'os.features': null,
      container_config: 'x',
      author: null,
    });
    assert.deepEqual(warnings, []);
  });

  describe('has how its containers run', () => {
    const rootfs = { type: 'layers', diff_ids: [digest] };
    const runtimeOf = (config: unknown, more = {}) => {
      const { runtime, warnings } = parseIt({ rootfs, config, ...more });
      return { runtime, warnings };
    };

    test('as Docker and the OCI specification spell it', () => {
      const config = {
        Hostname: '',
        Entrypoint: ['/bin/app', '--serve'],
        Cmd: ['-v'],
        Env: ['PATH=/bin', 'EMPTY='],
        User: '1000:1000',
        WorkingDir: '/srv',
        Labels: { one: '1', ['__proto__']: '2', 'org.example': '' },
        ExposedPorts: { '80/tcp': {}, '53/udp': null },
        Volumes: { '/data': {} },
        StopSignal: 'SIGQUIT',
        Healthcheck: 5,
      };
      const { runtime, warnings } = runtimeOf(config);
      assert.deepEqual(runtime, {
        entrypoint: ['/bin/app', '--serve'],
        cmd: ['-v'],
        env: ['PATH=/bin', 'EMPTY='],
        user: '1000:1000',
        workingDir: '/srv',
        labels: config.Labels,
        exposedPorts: ['80/tcp', '53/udp'],
        volumes: ['/data'],
        stopSignal: 'SIGQUIT',
      });
      assert.deepEqual(warnings, []);
    });

    test('without fields that are null or empty', () => {
      const config = { Entrypoint: null, Cmd: [], Env: null, User: '', Labels: {}, ExposedPorts: null, Volumes: {} };
      for (const value of [config, {}, null, undefined]) {
        assert.deepEqual(runtimeOf(value), { runtime: {}, warnings: [] });
      }
    });

    test('in any letter case, with a warning', () => {
      const { runtime, warnings } = runtimeOf({ cmd: ['a'], ENV: ['A=1'] });
      assert.deepEqual(runtime, { cmd: ['a'], env: ['A=1'] });
      assert.match(warnings.join('\n'), /config.cmd is treated as "Cmd"/);
    });

    test('without fields of another type: each is one warning, and no failure', () => {
      const config = {
        Entrypoint: '/bin/app',
        Cmd: ['a', null],
        Env: [['A=1']],
        User: 1000,
        WorkingDir: ['/'],
        Labels: { good: '1', number: 5, none: null },
        ExposedPorts: ['80/tcp'],
        Volumes: 'x',
        StopSignal: 9,
      };
      const { runtime, warnings } = runtimeOf(config);
      assert.deepEqual(runtime, { labels: { good: '1' } });
      assert.equal(warnings.length, Object.keys(config).length, warnings.join('\n'));
    });

    test('or nothing of it, if config is no object or has a field in two spellings', () => {
      for (const config of ['x', [], 5, true, { Cmd: ['a'], cmd: ['b'] }]) {
        const { runtime, warnings } = runtimeOf(config);
        assert.deepEqual(runtime, {});
        assert.match(warnings.join('\n'), /config was left out/, JSON.stringify(config));
      }
      const { runtime, warnings } = runtimeOf({ Cmd: ['a'] }, { Config: { Cmd: ['b'] } });
      assert.deepEqual([runtime, warnings.length], [{}, 1]);
    });

    test('without labels, and else without all, if it is too long for a result', () => {
      const long = 'x'.repeat(33 * 1024);
      const labels = runtimeOf({ Cmd: ['a'], Labels: { long } });
      assert.deepEqual(labels.runtime, { cmd: ['a'] });
      assert.match(labels.warnings.join('\n'), /the labels are too long for the result, which takes 32 KiB/);
      const all = runtimeOf({ Cmd: ['a'], Env: [`A=${long}`], Labels: { long: 'no' } });
      assert.deepEqual(all.runtime, {});
      assert.match(all.warnings.join('\n'), /config is too long/);
      assert.deepEqual(runtimeOf({ Cmd: ['x'.repeat(32 * 1024 - 12)] }).warnings, []);
    });
  });

  test('with wrong DiffIDs is refused, and the error names the field', () => {
    for (const [wrong, says] of [
      [[], /it must be an object, and is a list/],
      [{ rootfs: [] }, /rootfs must be an object, and is a list/],
      [{ rootfs: { type: 'layers', diff_ids: 'x' } }, /rootfs.diff_ids must be a list, and is "x"/],
      [{ rootfs: { type: 'layers', diff_ids: [digest, 'sha256:0'] } }, /rootfs.diff_ids\[1\] must be a digest/],
      [{ rootfs: { type: 'layers', diff_ids: [null] } }, /rootfs.diff_ids\[0\] must be a digest .*, and is null/],
    ] as const) {
      assert.match(fails('MANIFEST_INVALID', () => parseIt(wrong)).message, says);
    }
  });
});
