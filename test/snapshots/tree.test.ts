import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { measureTree } from '../../src/snapshots/tree.ts';
import { removeTree } from '../../src/system/remove-tree.ts';
import { inDirectory, makeDeep } from '../support/deep-tree.ts';

const NEVER = new AbortController().signal;

describe('counting a tree', () => {
  test('goes as deep as directories go, past the longest path of a system call', () =>
    inDirectory(async (directory) => {
      const root = join(directory, 'root');
      makeDeep(root, 60, 'd'.repeat(200)); // 12,000 bytes
      assert.equal((await measureTree(root, NEVER)).inodes, 1 + 60 + 1);
      await removeTree(root);
    }));

  test('goes through thousands of directories in each other', () =>
    inDirectory(async (directory) => {
      const root = join(directory, 'root');
      makeDeep(root, 3000, 'd');
      assert.equal((await measureTree(root, NEVER)).inodes, 1 + 3000 + 1);
      await removeTree(root);
      await assert.rejects(access(root), { code: 'ENOENT' });
    }));

  test('lets the event loop run', () =>
    inDirectory(async (directory) => {
      for (let index = 0; index < 8000; index += 1) writeFileSync(join(directory, `${index}`), '');
      let turns = 0;
      const count = setInterval(() => {
        turns += 1;
      }, 1);
      const { inodes } = await measureTree(directory, NEVER);
      clearInterval(count);
      assert.equal(inodes, 8001);
      assert.ok(turns >= 2, `only ${turns} turns`);
    }));

  test('can be aborted', () =>
    inDirectory(async (directory) => {
      for (let index = 0; index < 500; index += 1) writeFileSync(join(directory, `${index}`), '');
      await assert.rejects(measureTree(directory, AbortSignal.abort(new Error('enough'))), { message: 'enough' });
    }));

  test('of a directory that is not there is nothing', () =>
    inDirectory(async (directory) => {
      assert.deepEqual(await measureTree(join(directory, 'nothing'), NEVER), { bytes: 0, inodes: 0 });
    }));
});
