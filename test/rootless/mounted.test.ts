import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { imageOf, layerOf } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';
import { skip, unpackd, usersFolder } from './as-user.ts';

test('mounts of a store that a user may not look into are not taken for those of the own store', { skip }, async () => {
  // a folder of root that is closed for others, as containerd's is: its snapshots have the same numbers
  using closed = scratch();
  const trees = ['1', '2'].map((number) => join(closed.path, 'snapshots', number, 'fs'));
  for (const tree of trees) mkdirSync(tree, { recursive: true });
  const at = join(closed.path, 'at');
  mkdirSync(at);
  using folder = await usersFolder(imageOf([layerOf(tar(file('a'))), layerOf(tar(file('b')))]));
  const store = ['--root', join(folder.path, 'store'), '--json'];
  const applied = await unpackd('apply', `${folder.path}/layout:app`, ...store, '--ownership', 'squash');
  assert.equal(applied.status, 0, applied.stderr);
  execFileSync('mount', ['-t', 'overlay', '-o', `lowerdir=${trees.join(':')}`, 'overlay', at]);
  try {
    const { images } = JSON.parse(applied.stdout);
    const removed = await unpackd('snapshots', 'rm', '--with-parents', images[0].chainId, ...store);
    assert.equal(removed.status, 0, removed.stderr);
    assert.equal(JSON.parse(removed.stdout).removed.length, 2);
  } finally {
    execFileSync('umount', [at]);
  }
});
