import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { refused, type TemporaryStore, withStore } from './temporary-store.ts';

/** The ways in which the directory of the snapshot with number 2, `middle`, is lost. */
const LOSSES = {
  gone: (path: string) => rm(path, { recursive: true }),
  foreign: async (path: string) => {
    await rename(path, `${path}-away`);
    await mkdir(join(path, 'fs/theirs'), { recursive: true });
    await symlink('0'.repeat(32), join(path, 'store'));
  },
} as const;

for (const type of ['overlay', 'native'] as const) {
  describe(`${type} store: a snapshot whose directory is`, () => {
    for (const [broken, lose] of Object.entries(LOSSES)) {
      const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
        test(`${broken}: ${sentence}`, () =>
          withStore(type, async (context) => {
            const write = (directory: string) => writeFile(join(directory, 'file'), 'text');
            for (const [name, parent] of [
              ['base', ''],
              ['middle', 'base'],
              ['top', 'middle'],
              ['side', 'base'],
            ] as const)
              await context.layer(name, parent, write);
            await lose(join(context.root, 'snapshots/2'));
            await body(context);
          }));

      behaviour('only it and what stands on it cannot be used', async ({ reopen }) => {
        const store = await reopen();
        assert.deepEqual(await states(store), { base: undefined, middle: broken, side: undefined, top: 'parent' });
        assert.deepEqual(await Promise.all(['base', 'middle', 'top', 'side'].map((name) => store.has(name))), [
          true,
          false,
          false,
          true,
        ]);
        await refused(store.prepare('key', 'top'), 'NotFound');
        await store.prepare('key', 'side');
      });

      behaviour('a store that is open notices it when something is prepared on it', async ({ store }) => {
        await refused(store.prepare('key', 'middle'), 'NotFound');
        assert.deepEqual(await states(store), { base: undefined, middle: broken, side: undefined, top: 'parent' });
      });

      behaviour('a new snapshot of that name mends it, beside what is there', async ({ reopen, layer, root }) => {
        const store = await reopen();
        await layer('middle', 'base');
        assert.deepEqual(await states(store), { base: undefined, middle: undefined, side: undefined, top: undefined });
        assert.equal((await store.stat('top')).parent, 'middle');
        await store.cleanup();
        assert.equal(existsSync(join(root, 'snapshots/2/fs/theirs')), broken === 'foreign');
      });

      behaviour('it can be removed, and what is in its place stays', async ({ reopen, root }) => {
        const store = await reopen();
        await store.remove('top');
        await store.remove('middle');
        await store.cleanup();
        assert.deepEqual(await states(store), { base: undefined, side: undefined });
        assert.equal(existsSync(join(root, 'snapshots/2/fs/theirs')), broken === 'foreign');
      });
    }
  });
}

async function states(store: Snapshotter): Promise<Record<string, string | undefined>> {
  return Object.fromEntries((await store.walk()).map(({ name, broken }) => [name, broken]));
}
