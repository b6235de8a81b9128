import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { removeTree } from '../../src/system/remove-tree.ts';

/** Nested directories with a file in the innermost. They are made from the inside, so that every path is short. */
export function makeDeep(root: string, depth: number, name: string): void {
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

/** Runs `body` with a new directory, and removes it. */
export async function inDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'unpackd-tree-'));
  try {
    await body(directory);
  } finally {
    await removeTree(directory).finally(() => rm(directory, { recursive: true, force: true }));
  }
}
