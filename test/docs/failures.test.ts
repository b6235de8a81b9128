import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FAILURE_CODES, type FailureCode } from '../../src/errors.ts';
import { FAILURE_ADVICE } from '../../src/queue/failure-advice.ts';

const RETRIED = { never: 'no', once: 'once', always: 'yes' } as const;

test('the table of failures in docs/producers.md says what board and command line say', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/producers.md'), 'utf8');
  const rows = [...page.matchAll(/^\| `([A-Z_]+)` \| (.+) \| (yes|no|once) \|$/gm)].map(([, ...cells]) => cells);
  const codes = Object.keys(FAILURE_CODES) as FailureCode[]; // `as`: the type of keys() is string[]
  assert.deepEqual(
    rows,
    codes.map((code) => [code, FAILURE_ADVICE[code].means, RETRIED[FAILURE_CODES[code]]]),
  );
});
