import assert from 'node:assert/strict';
import { test } from 'node:test';
import { failureSchema } from '../../src/queue/failure.ts';
import { checkPayload } from '../../src/queue/parse-payload.ts';
import { resultSchema } from '../../src/queue/result-schema.ts';
import { outdatedSchemas, schemaFiles } from '../../src/queue/schemas.ts';

const examples = (name: string): unknown[] => {
  const schema: object = schemaFiles()[name] ?? {};
  return 'examples' in schema && Array.isArray(schema.examples) ? schema.examples : [];
};

test('the published schemas are current (npm run schemas)', async () => {
  assert.deepEqual(await outdatedSchemas(), []);
});

test('every example matches its schema', () => {
  assert.equal(examples('payload.schema.json').length, 3);
  for (const example of examples('payload.schema.json')) checkPayload(example);
  for (const example of examples('result.schema.json')) resultSchema.parse(example);
  for (const example of examples('failure.schema.json')) failureSchema.parse(example);
});
