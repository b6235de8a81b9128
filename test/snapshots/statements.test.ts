import assert from 'node:assert/strict';
import { DatabaseSync } from 'node:sqlite';
import { describe, test } from 'node:test';
import { STEPS } from '../../src/snapshots/schema.ts';
import { STATEMENTS } from '../../src/snapshots/statements.ts';

/** The statements that run for each layer or image must not take longer in a larger store. */
describe('a statement that runs for each layer or image uses an index', () => {
  const file = new DatabaseSync(':memory:');
  for (const step of STEPS) file.exec(step);
  const forLayers = ['byKey', 'committed', 'chainSynced', 'keys', 'chain', 'children', 'commit', 'remove'] as const;
  const forImages = ['imageUsed', 'image', 'imagesOf', 'updateImage', 'useImages', 'document', 'dropDocument'] as const;
  for (const name of [...forLayers, ...forImages]) {
    test(name, () => {
      const plan = file.prepare(`EXPLAIN QUERY PLAN ${STATEMENTS[name]}`).all();
      const steps = plan.map(({ detail }) => String(detail));
      assert.ok(
        steps.some((step) => step.startsWith('SEARCH')),
        `${steps}`,
      );
      assert.deepEqual(
        steps.filter((step) => step.startsWith('SCAN') && step !== 'SCAN chain'),
        [],
      );
    });
  }
});
