import assert from 'node:assert/strict';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, mock } from 'node:test';
import '../support/needs-root.ts';
import { LaterSync } from '../../src/snapshots/later-sync.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { brittleExt4, unavailable, writeTooMuch } from '../support/file-system.ts';
import { scratch } from '../support/scratch.ts';

describe('snapshots that were committed without a sync', () => {
  it('are synced ten seconds later, all of them at once', async () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    const descriptor = openSync('/', 'r');
    const { promise: recorded, resolve } = Promise.withResolvers<readonly number[]>();
    const records = { synced: async (ids: readonly number[]) => resolve(ids), lost: async () => assert.fail('a loss') };
    const later = new LaterSync(descriptor, 3, records);
    try {
      later.add(3); // begun before the descriptor was open
      later.add(4);
      mock.timers.tick(9_999);
      later.add(5);
      assert.deepEqual(
        [3, 4, 5].map((id) => later.has(id)),
        [false, true, true],
      );
      mock.timers.tick(1);
      assert.deepEqual(await recorded, [4, 5]);
    } finally {
      mock.timers.reset();
      await later.close();
      closeSync(descriptor);
    }
    assert.equal(later.has(4), false);
  });

  it('are suspect for everybody if the disk has lost writes', { skip: unavailable(() => brittleExt4()) }, async () => {
    using disk = brittleExt4();
    using place = scratch();
    const root = join(place.path, 'store');
    // the database is on another disk, so the loss can be recorded
    const snapshots = join(root, 'snapshots');
    mkdirSync(snapshots, { recursive: true });
    await mountSnapshot([{ type: 'bind', source: disk.path, options: ['bind', 'rw'] }], snapshots);
    const options = { root, type: 'overlay', durable: false } as const;
    const [store, other] = [await openSnapshotter(options), await openSnapshotter(options)];
    try {
      for (const [name, synced] of [
        ['synced', true],
        ['unsynced', false],
      ] as const) {
        await store.prepare('key', '');
        await store.commit(name, 'key', { synced });
      }
      await store.prepare('begun', '');
      writeTooMuch(disk);
      await store.sync();
      await store.commit('later', 'begun').catch(() => {}); // it fails if the file system can only be read now
      for (const each of [store, other]) {
        assert.deepEqual(await Promise.all(['synced', 'unsynced', 'later'].map((name) => each.has(name))), [
          true,
          false,
          false,
        ]);
      }
    } finally {
      await store.close();
      await other.close();
      await unmountSnapshot(snapshots);
    }
  });
});
