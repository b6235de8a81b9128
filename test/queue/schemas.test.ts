import assert from 'node:assert/strict';
import { test } from 'node:test';
import { outdatedFiles } from '../../dev/schemas.ts';
import { checkPayload } from '../../src/queue/check-payload.ts';
import { derivedLog, derivedProgress } from '../../src/queue/derived-progress.ts';
import { failureSchema } from '../../src/queue/failure.ts';
import { progressSchema } from '../../src/queue/progress-schema.ts';
import { readResult, resultSchema } from '../../src/queue/result-schema.ts';
import { schemaFiles } from '../../src/queue/schemas.ts';

const examples = (name: string): unknown[] => {
  const schema: object = schemaFiles()[name] ?? {};
  return 'examples' in schema && Array.isArray(schema.examples) ? schema.examples : [];
};

test('the published schemas and the types are current (npm run schemas)', async () => {
  assert.deepEqual(await outdatedFiles(), []);
});

test('every example matches its schema', () => {
  assert.equal(examples('payload.schema.json').length, 3);
  for (const example of examples('payload.schema.json')) checkPayload(example);
  for (const example of examples('result.schema.json')) resultSchema.parse(example);
  for (const example of examples('failure.schema.json')) failureSchema.parse(example);
  for (const example of examples('progress.schema.json')) progressSchema.parse(example);
});

test('a result of an earlier version, without config and mounts, is read', () => {
  const [example] = examples('result.schema.json').map((one) => resultSchema.parse(one));
  assert.ok(example);
  const images = example.images.map(({ config, mounts, ...others }) => {
    assert.ok(config && mounts);
    return others;
  });
  const earlier = { ...example, images };
  assert.deepEqual(readResult('1', earlier), earlier);
  assert.equal(derivedProgress(earlier)?.images.length, 1);
  assert.equal(derivedLog(earlier, new Date()).length, 1);
});
