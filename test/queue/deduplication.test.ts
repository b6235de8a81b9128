import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deduplicationId, deduplicationText } from '../../src/queue/deduplication.ts';
import { payload } from './queue-fixture.ts';
import { digest } from './scripted-unpacker.ts';

// docs/producers.md shows this text to producers in other languages
test('the text of a tag in the layout distribution', () => {
  const tagged = payload('x', {
    image: 'registry.example/library/alpine:3.20',
    source: { bucket: 'mirror', prefix: '/harbor/', layout: 'distribution', repository: 'library/alpine' },
    tag: '3.20',
    platforms: ['linux/arm64/v8', 'linux/amd64'],
  });
  assert.equal(
    deduplicationText(tagged),
    'unpackd/1\nmirror\nharbor\ndistribution library/alpine\ntag 3.20\nlinux/amd64,linux/arm64/v8',
  );
  assert.equal(deduplicationId(tagged), '4d07eafdaafa203caec1ccb5e1772f14e36c35049a04892aa5ea306c4938c945');
});

test('the text of a manifest in an OCI layout', () => {
  assert.equal(
    deduplicationText(payload('blobs')),
    `unpackd/1\nblobs\n\noci\nmanifest sha256:${'a'.repeat(64)}\ndefault`,
  );
});

test('the text of explicit layers', () => {
  const blob = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: digest(2), size: 3 };
  const layers = [
    { diff: { digest: digest(1) }, blob },
    { diff: { digest: digest(3) }, blob },
  ];
  const source = { bucket: 'blobs', layout: 'keys' as const, template: 'b/{hex}' };
  assert.equal(
    deduplicationText(payload('x', { source, layers, platforms: 'all' })),
    `unpackd/1\nblobs\n\nkeys b/{hex}\nlayers ${digest(1)}=${digest(2)} ${digest(3)}=${digest(2)}\nall`,
  );
});

test('image and labels do not change the ID', () => {
  const one = deduplicationId(payload('blobs'));
  assert.equal(deduplicationId(payload('blobs', { image: 'other', labels: { a: 'b' } })), one);
  assert.notEqual(deduplicationId(payload('blobs', { platforms: 'all' })), one);
});

test('if the repository is derived from the image, the image changes the ID', () => {
  const source = { bucket: 'mirror', layout: 'distribution' as const };
  assert.match(
    deduplicationText(payload('x', { image: 'team/app:1', source, tag: '1' })),
    /^distribution team\/app:1$/m,
  );
});
