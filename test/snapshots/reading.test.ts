import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmodSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { checkStore } from '../../src/doctor/store.ts';
import { openSnapshotter, openToRead } from '../../src/snapshots/open.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { startChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';
import { listTree } from './list-tree.ts';
import { withStore } from './temporary-store.ts';

async function lookAt(root: string): Promise<string[]> {
  const store = await openToRead({ root, type: 'overlay' });
  try {
    const infos = await store.walk();
    await store.stat('top');
    assert.equal(await store.has('top'), true);
    assert.equal((await store.usage('top')).inodes, 2);
    assert.equal((await store.mounts('key')).length, 1);
    return infos.map(({ name, broken }) => `${name}${broken === undefined ? '' : ` ${broken}`}`);
  } finally {
    await store.close();
  }
}

/** ROOT and all below it, with the times of all names. */
const contents = (root: string): string[] => listTree(root);

async function withLayers(body: (root: string, close: () => Promise<void>) => Promise<void>): Promise<void> {
  await withStore('overlay', async ({ store, layer, root }) => {
    await layer('base', '', (directory) => writeFileSync(join(directory, 'file'), 'text'));
    await layer('top', 'base', (directory) => writeFileSync(join(directory, 'other'), 'text'));
    await store.prepare('key', 'top');
    await body(root, () => store.close());
  });
}

describe('a store that is only read', () => {
  test('stays as it is: nothing is written or created', () =>
    withLayers(async (root, close) => {
      await close();
      rmSync(join(root, 'reserve'), { recursive: true });
      const before = contents(root);
      assert.deepEqual(await lookAt(root), ['base', 'key', 'top']);
      const checks = await checkStore(root, 'overlay');
      assert.equal(checks.find(({ name }) => name === 'Snapshots')?.finding, '3 snapshots');
      assert.deepEqual(contents(root), before);
    }));

  test('can be read while a process has it open, and shows what that process has just added', () =>
    withStore('overlay', async ({ store, root, layer }) => {
      await layer('base', '');
      const reader = await openToRead({ root, type: 'overlay' });
      assert.equal(await reader.has('base'), true);
      await layer('more', 'base');
      assert.equal(await reader.has('more'), true);
      await reader.close();
      assert.equal((await store.walk()).length, 2);
    }));

  test('can be read after its process was killed, without a change', () =>
    withLayers(async (root, close) => {
      await close();
      const program = `import(${JSON.stringify(join(import.meta.dirname, '../../src/snapshots/open.ts'))}).then(
        async ({ openSnapshotter }) => {
          const store = await openSnapshotter({ root: ${JSON.stringify(root)}, type: 'overlay', durable: false });
          await store.prepare('killed', 'top');
          process.kill(process.pid, 'SIGKILL');
        })`;
      await using child = startChild(process.execPath, ['-e', program], { stdio: 'inherit' });
      await once(child, 'exit');
      for (const lost of [[], ['metadata.db-shm']]) {
        for (const name of lost) rmSync(join(root, name));
        const before = contents(root);
        assert.deepEqual(await lookAt(root), ['base', 'key', 'killed', 'top']);
        assert.deepEqual(contents(root), before);
      }
    }));

  test('can be on a read-only mount', () =>
    withLayers(async (root, close) => {
      await close();
      using place = scratch();
      await mountSnapshot([{ type: 'bind', source: root, options: ['rbind', 'ro'] }], place.path);
      try {
        assert.deepEqual(await lookAt(place.path), ['base', 'key', 'top']);
      } finally {
        await unmountSnapshot(place.path);
      }
    }));

  test('shows a lost directory before any process has noticed it', () =>
    withLayers(async (root, close) => {
      await close();
      rmSync(join(root, 'snapshots/1'), { recursive: true });
      const store = await openToRead({ root, type: 'overlay' });
      const states = (await store.walk()).map(({ name, broken }) => [name, broken]);
      await store.close();
      assert.deepEqual(states, [
        ['base', 'gone'],
        ['key', 'parent'],
        ['top', 'parent'],
      ]);
    }));

  test('is not made if it is missing', async () => {
    using place = scratch();
    const root = join(place.path, 'root');
    await assert.rejects(openToRead({ root, type: 'overlay' }), { message: /has no snapshot store/ });
    assert.throws(() => statSync(root), { code: 'ENOENT' });
  });
});

test('ROOT, the database and snapshots/ get the modes that they need, even if they exist', async () => {
  using place = scratch();
  const root = join(place.path, 'root');
  mkdirSync(join(root, 'snapshots'), { recursive: true });
  const modes: readonly (readonly [string, number, number])[] = [
    ['', 0o777, 0o755],
    ['snapshots', 0o777, 0o700],
    ['metadata.db', 0o666, 0o600],
  ];
  for (const time of ['new', 'existing']) {
    for (const [name, wide] of modes) {
      if (time === 'existing' || name !== 'metadata.db') chmodSync(join(root, name), wide);
    }
    await (await openSnapshotter({ root, type: 'overlay', durable: false })).close();
    for (const [name, , narrow] of modes) assert.equal(statSync(join(root, name)).mode & 0o7777, narrow, name);
  }
});
