import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Collector } from '../../src/collector/collector.ts';
import type { Marks } from '../../src/collector/free-space.ts';
import { type Needs, Room } from '../../src/collector/room.ts';
import { diffTarget } from '../../src/diff/target.ts';
import { UnpackError } from '../../src/errors.ts';
import { Leases } from '../../src/snapshots/leases.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { tmpfs, unavailable } from '../support/file-system.ts';

const MIB = 1 << 20;
const disk64 = () => tmpfs('size=64m');
const MARKS: Marks = { low: { bytes: 4 * MIB }, high: { bytes: 8 * MIB } };
const needs = (mebibytes: number, likely = mebibytes): Needs => ({
  least: { bytes: mebibytes * MIB, inodes: 1 },
  likely: { bytes: likely * MIB, inodes: 1 },
});

/** A store on a disk of 64 MiB, and the room on it. */
async function bench(marks?: Marks) {
  const disk = disk64();
  const store = await openSnapshotter({ root: join(disk.path, 'store'), type: 'overlay' });
  const room = new Room(new Collector(store, marks));
  return {
    store,
    room,
    /** Adds an image with one layer of so many MiB. */
    async image(name: string, mebibytes: number): Promise<void> {
      const { root } = diffTarget(await store.prepare(`prepare-${name}`, ''), 'nothing', store);
      writeFileSync(join(root, 'file'), Buffer.alloc(mebibytes * MIB, 1));
      await store.commit(name, `prepare-${name}`, { synced: true, usage: { bytes: mebibytes * MIB, inodes: 2 } });
      await store.recordImage({ reference: name, platform: '', chainId: name, source: '' }, new Map());
    },
    reserved: () => new Leases(store.root).held().map(({ needs }) => needs.bytes / MIB),
    names: async () => (await store.walk()).map(({ name }) => name),
    async [Symbol.asyncDispose]() {
      await store.close();
      disk[Symbol.dispose]();
    },
  };
}

const full = (pattern: RegExp) => (error: unknown) => {
  assert.ok(error instanceof UnpackError);
  assert.equal(error.code, 'STORE_FULL');
  assert.match(error.message, pattern);
  return true;
};

describe('the room of a job', { skip: unavailable(disk64) }, () => {
  test('is written into its lease', async () => {
    await using b = await bench();
    await using lease = await b.store.lease(['a'], {});
    await b.room.reserve(lease, needs(10, 30));
    assert.deepEqual(b.reserved(), [30]);
  });

  test('is not given to another job, which waits and gets it when the first has ended', async () => {
    await using b = await bench();
    const first = await b.store.lease(['a'], { job: 'first' });
    await b.room.reserve(first, needs(40));
    await using second = await b.store.lease(['b'], { job: 'second' });
    const lines: string[] = [];
    const waits = Promise.withResolvers<void>();
    const log = (_level: string, sentence: string): void => {
      lines.push(sentence);
      waits.resolve();
    };
    let has = false;
    const reserving = b.room.reserve(second, needs(40), { log }).then(() => {
      has = true;
    });
    await waits.promise;
    assert.deepEqual([has, b.reserved().sort()], [false, [0, 40]]);
    await first[Symbol.asyncDispose]();
    await reserving;
    assert.deepEqual(b.reserved(), [40]);
    assert.equal(lines.length, 1);
    assert.match(
      lines[0] ?? '',
      /^waits until other jobs have ended: its missing layers need 40.0 MiB and 1 inode at least, and 6\S+ MiB is free, of which 1 other job still need/,
    );
  });

  test('ends a wait when the job is cancelled', async () => {
    await using b = await bench();
    await using first = await b.store.lease(['a'], {});
    await b.room.reserve(first, needs(40));
    await using second = await b.store.lease(['b'], {});
    const stop = new AbortController();
    const log = (): void => stop.abort(new UnpackError('CANCELLED', 'cancelled'));
    await assert.rejects(b.room.reserve(second, needs(40), { signal: stop.signal, log }), /cancelled/);
    assert.deepEqual(b.reserved().sort(), [0, 40]);
  });

  test('is refused at once if it can never be free, also while other jobs run', async () => {
    await using b = await bench();
    await using first = await b.store.lease(['a'], {});
    await b.room.reserve(first, needs(10));
    await using second = await b.store.lease(['b'], {});
    await assert.rejects(
      b.room.reserve(second, needs(100)),
      full(
        /has no room for the image: its missing layers need 100 MiB and 1 inode at least, and 6\S+ MiB is free, of which 1 other job still need 10.0 MiB and 1 inode; nothing could be freed: use a larger disk$/,
      ),
    );
  });

  test('is reserved with the least that the job needs if no other job runs', async () => {
    await using b = await bench();
    await using lease = await b.store.lease(['a'], {});
    await b.room.reserve(lease, needs(20, 100));
    assert.deepEqual(b.reserved(), [100]);
  });

  test('is made by removing images, if the collector is on', async () => {
    await using b = await bench(MARKS);
    await b.image('a', 20);
    await b.image('b', 20);
    await using lease = await b.store.lease(['c'], {});
    await b.room.reserve(lease, needs(30));
    assert.deepEqual(await b.names(), ['b']);
  });

  test('leaves the lower mark free beside it if images can be removed, and is given all the same if none can', async () => {
    await using b = await bench(MARKS);
    await b.image('old', 20);
    await using lease = await b.store.lease(['a'], {});
    assert.equal(await b.room.tryReserve(lease, needs(41)), false, 'about 3 MiB would be left');
    await b.store.pinImage('old', undefined, true);
    await b.room.reserve(lease, needs(41));
    assert.deepEqual([await b.names(), b.reserved()], [['old'], [41]]);
    await b.store.pinImage('old', undefined, false);
    await lease.update({ bytes: 0, inodes: 0 });
    await b.room.reserve(lease, needs(41));
    assert.deepEqual([await b.names(), b.reserved()], [[], [41]]);
  });

  test('is refused without removing images if the collector is off, with what could be freed', async () => {
    await using b = await bench();
    await b.image('a', 40);
    await using lease = await b.store.lease(['c'], {});
    await assert.rejects(
      b.room.reserve(lease, needs(30)),
      full(
        /; 40.0 MiB could be freed: remove images \(unpackd gc, or UNPACK_GC_LOW and UNPACK_GC_HIGH\), or use a larger disk$/,
      ),
    );
    assert.deepEqual(await b.names(), ['a']);
  });

  test('is refused without removing images if their removal is not enough, with why they stay', async () => {
    await using b = await bench(MARKS);
    await b.image('a', 20);
    await b.image('b', 20);
    await b.store.pinImage('b', undefined, true);
    await using lease = await b.store.lease(['c'], {});
    await assert.rejects(b.room.reserve(lease, needs(50)), full(/; 20.0 MiB could be freed: remove images, or use/));
    assert.deepEqual(await b.names(), ['a', 'b']);
    await b.store.pinImage('a', undefined, true);
    await assert.rejects(
      b.room.reserve(lease, needs(50)),
      full(/; nothing could be freed \(2 pinned\): unpin or unmount images, or use a larger disk$/),
    );
  });

  test('is made from images of jobs that have ended meanwhile', async () => {
    await using b = await bench(MARKS);
    await b.image('a', 40);
    const first = await b.store.lease(['a'], {});
    await first.update({ bytes: 1, inodes: 0 });
    await using second = await b.store.lease(['b'], {});
    const log = (_level: string, sentence: string): void => {
      if (sentence.startsWith('waits')) void first[Symbol.asyncDispose]();
    };
    await b.room.reserve(second, needs(40), { log });
    assert.deepEqual(await b.names(), []);
  });
});
