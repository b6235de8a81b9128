import assert from 'node:assert/strict';
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { access, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { measureTree, removeTree } from '../../src/snapshots/tree.ts';

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

describe('removing a tree', () => {
  test('removes names that are not UTF-8, and paths longer than a system call takes', () =>
    inDirectory(async (directory) => {
      const root = join(directory, 'root');
      makeDeep(root, 60, 'd'.repeat(200));
      await writeFile(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe])]), '');
      await removeTree(root);
      assert.deepEqual(await readdir(directory), []);
    }));

  test('may be done by several at once', () =>
    inDirectory(async (directory) => {
      const root = join(directory, 'root');
      makeDeep(root, 60, 'd'.repeat(200));
      for (let index = 0; index < 500; index += 1) await mkdir(join(root, `${index}/a`), { recursive: true });
      await Promise.all([removeTree(root), removeTree(root), removeTree(root)]);
      assert.deepEqual(await readdir(directory), []);
    }));

  test('of one that is not there is fine', () => inDirectory((directory) => removeTree(join(directory, 'nothing'))));
});

/** `depth` directories in each other, a file in the innermost. Built from the inside, where every path is short. */
function makeDeep(root: string, depth: number, name: string): void {
  const building = `${root}-building`;
  mkdirSync(building);
  writeFileSync(join(building, 'file'), '');
  for (let level = 0; level < depth; level += 1) {
    mkdirSync(`${root}-outer`);
    renameSync(building, join(`${root}-outer`, name));
    renameSync(`${root}-outer`, building);
  }
  renameSync(building, root);
}

async function inDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'unpackd-tree-'));
  try {
    await body(directory);
  } finally {
    await removeTree(directory).finally(() => rm(directory, { recursive: true, force: true }));
  }
}
