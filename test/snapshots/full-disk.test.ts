import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdirSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { toUnpackError } from '../../src/errors.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { unmountSnapshot } from '../../src/system/mount.ts';
import { ext4, tmpfs, unavailable } from '../support/file-system.ts';

for (const type of ['overlay', 'native'] as const) {
  describe(`${type} store on a full disk`, () => {
    test('prepare is STORE_FULL and leaves nothing', () =>
      onSmallDisk(type, async (store, directory) => {
        fill(join(directory, 'ballast'));
        await assert.rejects(prepareForEver(store), isFull);
        await rm(join(directory, 'ballast'));
        assert.equal(await store.cleanup(), 0);
      }));

    test('the layer that filled it can be removed, which frees the space', () =>
      onSmallDisk(type, async (store) => {
        const [mount] = await store.prepare('layer', '');
        fill(join(mount?.source ?? '', 'file'));
        await store.remove('layer');
        await store.cleanup();
        await store.prepare('other', '');
      }));
  });
}

describe('a store on a disk without a free byte', { skip: unavailable(() => ext4()) }, () => {
  for (const what of ['bytes', 'inodes'] as const) {
    test(`of ${what} can be opened by the first process, and the snapshot that fills it can be removed`, async () => {
      using disk = ext4([], 256 << 20);
      const options = { root: join(disk.path, 'root'), type: 'overlay' } as const;
      const before = await openSnapshotter(options);
      for (const key of ['committed', 'left behind']) {
        const [mount] = await before.prepare(key, '');
        for (let index = 0; index < 100; index++) {
          writeFileSync(join(mount?.source ?? '', `${index}`), Buffer.alloc(20_000));
        }
      }
      await before.commit('layer', 'committed');
      await before.close();
      const ballast = join(disk.path, 'ballast');
      mkdirSync(ballast);
      if (what === 'bytes') fill(join(ballast, 'file'));
      else for (let left = statfsSync(ballast).ffree; left > 0; left--) writeFileSync(join(ballast, `${left}`), '');

      await assert.rejects(openSnapshotter(options), isFull, 'only who makes room may use the reserve');
      const store = await openSnapshotter({ ...options, mayUseReserve: true });
      await store.remove('left behind');
      await store.remove('layer');
      await store.cleanup();
      assert.deepEqual(await store.walk(), []);
      await store.prepare('another', '');
      await store.close();
      rmSync(ballast, { recursive: true });
      await (await openSnapshotter(options)).close();
      assert.equal(readdirSync(join(options.root, 'reserve')).length, 8, 'there is a reserve for the next time');
    });
  }
});

test('in an open store, an empty snapshot can be removed from a full disk', async () => {
  using disk = tmpfs('size=256m');
  const root = join(disk.path, 'root');
  const store = await openSnapshotter({ root, type: 'overlay', mayUseReserve: true, durable: false });
  try {
    const [mount] = await store.prepare('layer', '');
    for (let index = 0; index < 30; index++) await store.prepare(`empty ${index}`, '');
    fill(join(mount?.source ?? '', 'file'));
    for (let index = 0; index < 30; index++) await store.remove(`empty ${index}`);
    await store.remove('layer');
    await store.cleanup();
    assert.deepEqual(await store.walk(), []);
    assert.equal(readdirSync(join(root, 'reserve')).length, 8, 'there is a reserve for the next time');
  } finally {
    await store.close();
  }
});

test('a copy that fills the disk is STORE_FULL and is deleted', () =>
  onSmallDisk('native', async (store, directory) => {
    const [mount] = await store.prepare('key', '');
    appendFileSync(join(mount?.source ?? '', 'file'), Buffer.alloc(3 << 20, 1));
    await store.commit('base', 'key');
    await assert.rejects(store.prepare('copy', 'base'), isFull);
    await store.cleanup();
    appendFileSync(join(directory, 'ballast'), Buffer.alloc(512 << 10, 1));
  }));

async function prepareForEver(store: Snapshotter): Promise<never> {
  for (let index = 0; ; index += 1) await store.prepare(`key-${index}`, '', { labels: { long: 'x'.repeat(10_000) } });
}

function isFull(error: unknown): boolean {
  return toUnpackError(error).code === 'STORE_FULL';
}

/** Appends until the disk has no free byte. */
function fill(file: string): void {
  for (const size of [1 << 16, 1 << 12, 1]) {
    try {
      for (;;) appendFileSync(file, Buffer.alloc(size, 1));
    } catch (error) {
      assert.ok(isFull(error), String(error));
    }
  }
}

async function onSmallDisk(
  type: Snapshotter['type'],
  body: (store: Snapshotter, directory: string) => Promise<void>,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'unpackd-full-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', directory]);
  try {
    const store = await openSnapshotter({ root: join(directory, 'root'), type, durable: false });
    try {
      await body(store, directory);
    } finally {
      await store.close();
    }
  } finally {
    await unmountSnapshot(directory);
    await rm(directory, { recursive: true });
  }
}
