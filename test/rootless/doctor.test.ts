import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Check } from '../../src/doctor/check.ts';
import { imageOf, layerOf } from '../support/layout.ts';
import { file, tar } from '../support/tar.ts';
import { skip, unpackd, usersFolder } from './as-user.ts';

/** The checks of the doctor for a user without root rights, by name. */
async function checks(...flags: readonly string[]): Promise<Map<string, Check>> {
  using folder = await usersFolder(imageOf([layerOf(tar(file('a')))]));
  const { stdout } = await unpackd('doctor', '--json', '--root', join(folder.path, 'store'), ...flags);
  assert.deepEqual(readdirSync(folder.path), ['layout'], 'the doctor left something behind');
  const { checks } = JSON.parse(stdout) as { checks: Check[] };
  return new Map(checks.map((check) => [check.name, check]));
}

describe('the doctor, for a user without root rights', { skip }, () => {
  test('names the missing capabilities and the setting that does not need them', async () => {
    const permissions = (await checks()).get('Permissions');
    assert.equal(permissions?.status, 'fail');
    assert.match(permissions?.finding ?? '', /^user 65534, without CAP_CHOWN/);
    assert.match(permissions?.advice ?? '', /UNPACK_OWNERSHIP=squash/);
  });

  test('passes with that setting, and tells where overlays can be mounted', async () => {
    const found = await checks('--ownership', 'squash');
    for (const name of ['Permissions', 'Attributes', 'Whiteouts']) assert.equal(found.get(name)?.status, 'ok', name);
    assert.match(found.get('Permissions')?.finding ?? '', /^user 65534, who will own all files/);
    const overlay = found.get('Overlay');
    assert.match(overlay?.finding ?? '', /in a user namespace|can unpack but not mount/);
    assert.notEqual(overlay?.status, 'fail');
  });
});
