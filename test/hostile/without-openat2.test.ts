import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { runChild } from '../support/child.ts';
import '../support/needs-root.ts';
import { scratch } from '../support/scratch.ts';
import { paths } from '../support/tree.ts';

const ERRNOS = { ENOSYS: 38, EPERM: 1 };

describe('on a kernel without openat2', () => {
  for (const [name, errno] of Object.entries(ERRNOS)) {
    it(`paths are resolved name by name, with ${name}`, () => {
      using dir = scratch();
      const script = new URL('without-openat2.ts', import.meta.url).pathname;
      const { status, stderr } = runChild(process.execPath, [script, dir.path, String(errno)]);
      assert.equal(status, 0, stderr);
      assert.deepEqual(paths(dir.path), ['d', 'd/e', 'd/e/f', 'd/e/h', 'd/g', 'i', 'l', 'o']);
    });
  }
});
