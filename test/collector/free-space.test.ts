import assert from 'node:assert/strict';
import { test } from 'node:test';
import { amountOn, type FreeSpace, isBelow, marksProblem, missingOf } from '../../src/collector/free-space.ts';

const GIB = 1024 ** 3;
const disk = { bytes: 5 * GIB, totalBytes: 100 * GIB, inodes: 1000, totalInodes: 100_000 };

const shortfall = (of: typeof disk, amount: FreeSpace) => missingOf(of, amountOn(of, amount));

test('a collection is due if bytes or inodes are below the lower mark', () => {
  assert.equal(isBelow({ ...disk, inodes: 9000 }, { percent: 5 }), false);
  assert.equal(isBelow({ ...disk, inodes: 9000 }, { percent: 5.1 }), true);
  assert.equal(isBelow(disk, { percent: 5 }), true, 'too few inodes');
  assert.equal(isBelow(disk, { bytes: 5 * GIB }), false);
});

test('a share of the disk counts bytes and inodes, a size only bytes', () => {
  assert.deepEqual(shortfall(disk, { percent: 10 }), { bytes: 5 * GIB, inodes: 9000 });
  assert.deepEqual(shortfall(disk, { percent: 1 }), { bytes: 0, inodes: 0 });
  assert.deepEqual(shortfall(disk, { bytes: 7 * GIB }), { bytes: 2 * GIB, inodes: 0 });
  const btrfs = { ...disk, inodes: undefined, totalInodes: undefined };
  assert.deepEqual(missingOf(btrfs, amountOn(btrfs, { percent: 10 })), { bytes: 5 * GIB, inodes: 0 });
});

test('marks of different kinds are compared on the disk, and a mark that the disk cannot reach is refused', () => {
  const problem = (low: object, high: object): string | undefined =>
    // `as`: the types of the literals below are those of a mark
    marksProblem({ low, high } as Parameters<typeof marksProblem>[0], disk, '/store');
  assert.equal(problem({ percent: 10 }, { bytes: 20 * GIB }), undefined);
  assert.equal(
    problem({ percent: 30 }, { bytes: 20 * GIB }),
    'UNPACK_GC_LOW=30% is not less than UNPACK_GC_HIGH=20.0 GiB, because the disk of /store has 100 GiB: write a smaller UNPACK_GC_LOW',
  );
  assert.equal(
    problem({ percent: 30 }, { bytes: 200 * GIB }),
    'UNPACK_GC_HIGH=200 GiB can never be free, because the disk of /store has 100 GiB: write less',
  );
});
