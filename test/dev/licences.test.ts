import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isPermissive, type Lock, noticesOf, runtimePackages } from '../../dev/licences.ts';

const root = join(import.meta.dirname, '../..');

test('every package that is installed with unpackd has a permissive licence', () => {
  const lock: Lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  const all = runtimePackages(lock);
  assert.ok(all.length > 100);
  assert.deepEqual(
    all.filter(({ licence }) => !isPermissive(licence)),
    [],
  );
});

test('a package with a copyleft licence, or none, is refused', () => {
  const packages = {
    'node_modules/a': { license: 'GPL-3.0' },
    'node_modules/b': {},
    'node_modules/c': { license: 'MIT' },
  };
  const refused = runtimePackages({ packages }).filter(({ licence }) => !isPermissive(licence));
  assert.deepEqual(
    refused.map(({ name }) => name),
    ['a', 'b'],
  );
  assert.equal(isPermissive('(MIT OR GPL-2.0)'), true);
  assert.equal(isPermissive('(MIT AND GPL-2.0)'), false);
});

test('the notices of a bundle have the licence text of each package in it', () => {
  const text = noticesOf(root, ['src/cli/main.ts', 'node_modules/zod/index.js', 'node_modules/commander/index.js']);
  for (const name of ['zod', 'commander']) {
    assert.ok(text.includes(readFileSync(join(root, 'node_modules', name, 'LICENSE'), 'utf8').trim()));
  }
  assert.throws(() => noticesOf(root, ['node_modules/.bin/x']), /has no file with its licence/);
});
