import assert from 'node:assert/strict';
import { test } from 'node:test';
import { repositoryOf } from '../../src/oci/reference.ts';
import { checkPayload } from '../../src/queue/check-payload.ts';
import { parsePayload } from '../../src/queue/parse-payload.ts';
import { CONNECTION, payload } from './queue-fixture.ts';
import { digest } from './scripted-unpacker.ts';

const policy = { connection: CONNECTION, buckets: [] };
const good = payload('bucket');

/** A wrong payload, and a part of its message. */
function refuses(name: string, data: unknown, sentence: RegExp): void {
  test(`refuses ${name}`, () => {
    assert.throws(
      () => checkPayload(data),
      (error: Error) => {
        assert.equal('code' in error && error.code, 'INVALID_JOB');
        assert.match(error.message, sentence);
        assert.ok(error.message.length < 500, error.message);
        return true;
      },
    );
  });
}

test('converts a payload to a source and a request', () => {
  const parsed = parsePayload(
    payload('mirror', {
      source: { bucket: 'mirror', prefix: '/a/b/', layout: 'distribution', repository: 'library/alpine' },
      tag: '3.20',
      platforms: ['linux/arm64'],
      labels: { team: 'payments' },
    }),
    policy,
  );
  assert.deepEqual(parsed, {
    image: 'registry.example/mirror:1',
    source: {
      kind: 's3',
      bucket: 'mirror',
      prefix: 'a/b',
      layout: { kind: 'distribution', repository: 'library/alpine' },
      connection: CONNECTION,
    },
    request: {
      target: { kind: 'tag', tag: '3.20' },
      platforms: [{ os: 'linux', architecture: 'arm64', variant: 'v8' }],
    },
    labels: { team: 'payments' },
  });
});

test('reads explicit layers', () => {
  const blob = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: digest(2), size: 3 };
  const layers = [{ diff: { digest: digest(1), mediaType: 'x', size: 9 }, blob: { ...blob, annotations: { a: 'b' } } }];
  const { request } = parsePayload(payload('b-1', { layers }), policy);
  assert.deepEqual(request.target, { kind: 'layers', layers: [{ diff: { digest: digest(1) }, blob }] });
});

test('derives the repository from the image if the payload names none', () => {
  const source = { bucket: 'mirror', layout: 'distribution' as const };
  const { source: spec } = parsePayload(payload('x', { image: 'docker.io/alpine:3', source, tag: '3' }), policy);
  assert.deepEqual(spec.kind === 's3' && spec.layout, { kind: 'distribution', repository: 'library/alpine' });
});

for (const [image, repository] of Object.entries({
  alpine: 'library/alpine',
  'alpine:3.20': 'library/alpine',
  'docker.io/library/alpine@sha256:abc': 'library/alpine',
  'ghcr.io/team/app:1': 'team/app',
  'localhost:5000/app:1': 'app',
  'team/app': 'team/app',
  'Not A Reference': undefined,
})) {
  test(`the repository of ${image} is ${repository}`, () => assert.equal(repositoryOf(image), repository));
}

refuses(
  'no manifest, tag or layers',
  { ...good, manifest: undefined },
  /exactly one of manifest, tag and layers is needed, but there is none$/,
);
refuses('a manifest and a tag', { ...good, tag: 'x' }, /exactly one .* but there is manifest and tag$/);
refuses(
  'an unknown field, with the one that was meant',
  { ...good, platfroms: [] },
  /platfroms is not a known field; did you mean platforms\?$/,
);
refuses(
  'a field in the wrong case',
  { ...good, source: { ...good.source, Prefix: 'x' } },
  /source\.Prefix .* did you mean prefix\?/,
);
for (const field of ['endpoint', 'region', 'credentials', 'accessKeyId']) {
  refuses(
    `a job that sets the ${field}`,
    { ...good, source: { ...good.source, [field]: 'x' } },
    /cannot be set by a job/,
  );
}
refuses(
  'a newer version by one sentence about it',
  { version: 2, everything: 'else' },
  /has version 2, but this worker supports only version 1/,
);
refuses(
  'a bucket that is an ARN',
  { ...good, source: { ...good.source, bucket: 'arn:aws:s3:x:1:accesspoint/y' } },
  /is not a bucket name/,
);
refuses('a prefix that climbs', { ...good, source: { ...good.source, prefix: 'a/../../b' } }, /path segment/);
refuses(
  'a template without {hex}',
  { ...good, source: { bucket: 'bbb', layout: 'keys', template: 'blobs' } },
  /must contain \{hex\}/,
);
refuses(
  'keys without a template',
  { ...good, source: { bucket: 'bbb', layout: 'keys' } },
  /source\.template is missing/,
);
refuses(
  'a tag where there are none',
  payload('b-1', { source: { bucket: 'b-1', layout: 'keys', template: '{hex}' }, tag: 'x' }),
  /has no tags/,
);
refuses('a platform that is none', { ...good, platforms: ['linux'] }, /platforms\[0\] "linux" is not a platform/);
refuses('an empty list of platforms', { ...good, platforms: [] }, /platforms is empty/);
refuses(
  'a label longer than containerd allows',
  { ...good, labels: { key: 'x'.repeat(4094) } },
  /labels\.key has 4097 bytes/,
);
refuses(
  'a label that no text in UTF-8 can be',
  { ...good, labels: { key: 'half \ud800' } },
  /labels\.key has half of a surrogate pair/,
);
refuses(
  "a label that is the store's own",
  { ...good, labels: { 'containerd.io/snapshot.ref': 'x' } },
  /is set by the store/,
);
refuses(
  'three hundred wrong layers in one sentence',
  {
    ...good,
    manifest: undefined,
    layers: Array.from({ length: 300 }, () => ({ diff: { digest: 3 }, blob: { mediatype: 'x' } })),
  },
  /layers\[0\]\.diff\.digest must be a string, not a number; .*; and 1[0-9]{3} more$/,
);

test('a label of exactly 4096 bytes is allowed', () => {
  assert.doesNotThrow(() => checkPayload({ ...good, labels: { key: 'x'.repeat(4093) } }));
});
