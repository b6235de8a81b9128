import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { settingsTable } from '../../src/cli/settings.ts';
import { FAILURE_CODES } from '../../src/errors.ts';

const root = join(import.meta.dirname, '../..');
const path = join(root, 'README.md');

test('the settings in README.md are those of the code (UPDATE=1 npm test test/cli/readme.test.ts writes them)', () => {
  const readme = readFileSync(path, 'utf8');
  const section = /(?<=<!-- settings -->\n)[\s\S]*(?=<!-- \/settings -->)/;
  if (process.env.UPDATE === '1')
    writeFileSync(
      path,
      readme.replace(section, () => settingsTable()),
    );
  else assert.equal(section.exec(readme)?.[0], settingsTable());
});

test('README.md explains every failure code, in the order of the code, and how often it is retried', () => {
  const rows = readFileSync(path, 'utf8').matchAll(/^\| `([A-Z_]+)` \| .* \| (no|once|yes) \|$/gm);
  const words = { never: 'no', once: 'once', always: 'yes' } as const;
  const expected = Object.entries(FAILURE_CODES).map(([code, retry]) => [code, words[retry]]);
  assert.deepEqual(
    [...rows].map(([, code, retry]) => [code, retry]),
    expected,
  );
});

test('every file that a README links to is there', () => {
  const files = ['README.md', 'src/source/README.md', 'src/queue/README.md'].filter((file) =>
    existsSync(join(root, file)),
  );
  for (const file of files) {
    const links = readFileSync(join(root, file), 'utf8').matchAll(/\]\((?!https?:|#)([^)#]+)/g);
    for (const [, link = ''] of links)
      assert.ok(existsSync(join(root, dirname(file), link)), `${file} links to ${link}`);
  }
});
