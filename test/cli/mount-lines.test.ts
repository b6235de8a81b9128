import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { mountLines } from '../../src/cli/mount-lines.ts';
import type { Mount } from '../../src/snapshots/snapshotter.ts';
import { scratch } from '../support/scratch.ts';

describe('the commands of snapshots mounts', () => {
  test('are quoted for a shell', () => {
    const bind: Mount = { type: 'bind', source: "/a b'c/1/fs", options: ['ro', 'rbind'] };
    assert.deepEqual(mountLines([bind], '/mnt'), ["mount -o ro,rbind '/a b'\\''c/1/fs' /mnt"]);
    const overlay: Mount = { type: 'overlay', source: 'overlay', options: ['lowerdir=/s/2/fs:/s/1/fs', 'index=off'] };
    assert.deepEqual(mountLines([overlay], '/a$b'), [
      "mount -t overlay -o lowerdir=/s/2/fs:/s/1/fs,index=off overlay '/a$b'",
    ]);
  });

  for (const layers of [2, 20, 200]) {
    test(`mount ${layers} layers`, () => {
      using dir = scratch();
      const store = join(dir.path, 'a directory with quite a long name', 'snapshots');
      const trees = Array.from({ length: layers }, (_, index) => join(store, `${index + 1}`, 'fs'));
      for (const [index, tree] of trees.entries()) {
        mkdirSync(tree, { recursive: true });
        writeFileSync(join(tree, `file-${index}`), '');
      }
      const folder = join(dir.path, "it's mounted");
      mkdirSync(folder);
      const options = [`lowerdir=${trees.join(':')}`, 'index=off'];
      const [line = ''] = mountLines([{ type: 'overlay', source: 'overlay', options }], folder);
      execFileSync('sh', ['-c', line]);
      try {
        assert.equal(readdirSync(folder).length, layers);
      } finally {
        execFileSync('umount', [folder]);
      }
    });
  }
});
