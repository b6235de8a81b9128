import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UnpackError } from '../../src/errors.ts';
import { checkPayload } from '../../src/queue/check-payload.ts';

/** Default messages of zod, which no payload may cause. */
const ZODS_WORDS = /Invalid (input|string|key|option|type)|expected \w+|received|Too (small|big)|Unrecognized/i;
const ODD: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  1e300,
  '',
  'x',
  '\u0000',
  'a'.repeat(5000),
  [],
  [null],
  [[]],
  {},
  { a: 1 },
  { '': '' },
];
const DIGEST = `sha256:${'a'.repeat(64)}`;
const layer = {
  diff: { digest: DIGEST },
  blob: { mediaType: 'x', digest: DIGEST, size: 1, annotations: { a: 'b' }, urls: ['u'] },
};
const source = { bucket: 'bucket', prefix: 'p', layout: 'oci' };
const WHOLE: readonly unknown[] = [
  { version: 1, image: 'a:1', source, tag: '1', platforms: ['linux/amd64'], labels: { a: 'b' } },
  { version: 1, image: 'a:1', source: { ...source, layout: 'distribution', repository: 'a/b' }, manifest: DIGEST },
  { version: 1, image: 'a:1', source: { ...source, layout: 'keys', template: '{hex}' }, layers: [layer] },
];

/** All copies of `value` in which one field, at any depth, is replaced. */
function* altered(value: unknown): Generator<unknown> {
  yield* ODD;
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) for (const one of altered(item)) yield value.with(index, one);
  } else if (typeof value === 'object' && value !== null) {
    for (const [key, item] of Object.entries(value)) for (const one of altered(item)) yield { ...value, [key]: one };
    for (const key of Object.keys(value)) {
      const { [key]: _, ...rest } = value as Record<string, unknown>; // an object literal of this file
      yield rest;
    }
  }
}

test('a wrong value in any field gives one sentence without messages of zod', () => {
  let refused = 0;
  for (const payload of WHOLE.flatMap((whole) => [...altered(whole)])) {
    try {
      checkPayload(payload);
    } catch (error) {
      assert.ok(error instanceof UnpackError && error.code === 'INVALID_JOB', String(error));
      assert.doesNotMatch(error.message, ZODS_WORDS, JSON.stringify(payload)?.slice(0, 300));
      assert.doesNotMatch(error.message, /\n/);
      refused += 1;
    }
  }
  assert.ok(refused > 500, `only ${refused} were refused`);
});
