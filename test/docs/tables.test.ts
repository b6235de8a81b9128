import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { settingsTable } from '../../src/cli/settings.ts';
import { FAILURE_CODES } from '../../src/errors.ts';

/** The tables in docs/ that repeat what the code defines. */
const docs = join(import.meta.dirname, '../../docs');

test('docs/operations.md lists the settings of the code (UPDATE=1 npm test test/docs/tables.test.ts writes them)', () => {
  const path = join(docs, 'operations.md');
  const page = readFileSync(path, 'utf8');
  const section = /(?<=<!-- settings -->\n)[\s\S]*(?=<!-- \/settings -->)/;
  if (process.env.UPDATE === '1') {
    writeFileSync(
      path,
      page.replace(section, () => settingsTable()),
    );
  } else assert.equal(section.exec(page)?.[0], settingsTable());
});

test('docs/producers.md explains every failure code, in the order of the code, and how often it is retried', () => {
  const page = readFileSync(join(docs, 'producers.md'), 'utf8');
  const rows = page.matchAll(/^\| `([A-Z_]+)` \| .* \| (no|once|yes) \|$/gm);
  const words = { never: 'no', once: 'once', always: 'yes' } as const;
  const expected = Object.entries(FAILURE_CODES).map(([code, retry]) => [code, words[retry]]);
  assert.deepEqual(
    [...rows].map(([, code, retry]) => [code, retry]),
    expected,
  );
});
