import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { measureTree } from '../../src/snapshots/tree.ts';
import { removeTree } from '../../src/system/remove-tree.ts';
import { inDirectory, makeDeep } from '../support/deep-tree.ts';

const NEVER = new AbortController().signal;

describe('measuring a tree', () => {
  test('works for paths longer than a system call takes', () =>
    inDirectory(async (directory) => {
      const root = join(directory, 'root');
      makeDeep(root, 60, 'd'.repeat(200)); // 12,000 bytes
      assert.equal((await measureTree(root, NEVER)).inodes, 1 + 60 + 1);
      await removeTree(root);
    }));

  test('works for thousands of nested directories', () =>
    inDirectory(async (directory) => {
      const root = join(directory, 'root');
      makeDeep(root, 3000, 'd');
      assert.equal((await measureTree(root, NEVER)).inodes, 1 + 3000 + 1);
      await removeTree(root);
      await assert.rejects(access(root), { code: 'ENOENT' });
    }));

  test('does not block the event loop', () =>
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

  test('of a missing directory is zero', () =>
    inDirectory(async (directory) => {
      assert.deepEqual(await measureTree(join(directory, 'nothing'), NEVER), { bytes: 0, inodes: 0 });
    }));
});
