import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { brittleExt4, ext4, shutdown, tmpfs, unavailable, writeTooMuch } from '../support/file-system.ts';
import { scratch } from '../support/scratch.ts';

describe('a store whose disk fails while the store is open', { skip: unavailable(() => brittleExt4()) }, () => {
  test('reports the failure, the place and the remedy in every call that writes; reads still work', async () => {
    using disk = brittleExt4();
    const root = join(disk.path, 'root');
    const store = await openSnapshotter({ root, type: 'overlay', durable: false });
    try {
      await store.prepare('key', '');
      writeTooMuch(disk);
      assert.throws(() => execFileSync('sync', ['-f', disk.path], { stdio: 'ignore' }));
      const calls = {
        prepare: () => store.prepare('other', ''),
        commit: () => store.commit('name', 'key'),
        update: () => store.update({ name: 'key', labels: { a: 'b' } }),
        remove: () => store.remove('key'),
      };
      for (const [name, call] of Object.entries(calls)) {
        await assert.rejects(call, (error: { code?: unknown; message: string }) => {
          assert.equal(error.code, 'STORE_FAILED', `${name}: ${error.message}`);
          assert.ok(error.message.includes(root), error.message);
          assert.match(error.message, /dmesg/);
          return true;
        });
      }
      assert.equal((await store.stat('key')).kind, 'active');
    } finally {
      await store.close();
    }
  });
});

test('a disk that is gone is not called a damaged database', { skip: unavailable(() => ext4()) }, async () => {
  using disk = ext4();
  const options = { root: join(disk.path, 'root'), type: 'overlay' } as const;
  const [store, other] = [await openSnapshotter(options), await openSnapshotter(options)];
  try {
    await store.walk();
    await other.prepare('key', ''); // what the first one has in memory is old now
    shutdown(disk.path);
    const message = /metadata\.db: its disk cannot be read or written, .*dmesg/;
    await assert.rejects(store.walk(), { code: 'STORE_FAILED', message });
  } finally {
    for (const open of [store, other]) await open.close();
  }
});

test('a damaged database gives an error with the remedy', async () => {
  using dir = scratch();
  const options = { root: join(dir.path, 'root'), type: 'overlay' } as const;
  const store = await openSnapshotter(options);
  for (let index = 0; index < 50; index++) await store.prepare(`key ${index}`, '', { labels: { x: 'y'.repeat(500) } });
  await store.close();
  const file = openSync(join(options.root, 'metadata.db'), 'r+');
  for (let page = 2; page < 10; page++) writeSync(file, Buffer.alloc(4096, 0xa5), 0, 4096, page * 4096);
  closeSync(file);
  const damaged = openSnapshotter(options).then(async (opened) => {
    await opened.walk().finally(() => opened.close());
  });
  await assert.rejects(damaged, {
    code: 'STORE_FAILED',
    message: /metadata\.db: it is damaged: .*fsck.*unpackd snapshots recover/,
  });
});

test('opening a store is STORE_FULL if its disk has free inodes but no free bytes', {
  skip: unavailable(() => tmpfs('size=4m')),
}, async () => {
  using disk = tmpfs('size=4m');
  const options = { root: join(disk.path, 'root'), type: 'overlay' } as const;
  await (await openSnapshotter(options)).close();
  assert.throws(() => writeFileSync(join(disk.path, 'ballast'), Buffer.alloc(8 << 20, 1)), { code: 'ENOSPC' });
  await assert.rejects(openSnapshotter(options), { code: 'STORE_FULL', message: /metadata\.db; free space or inodes/ });
});
