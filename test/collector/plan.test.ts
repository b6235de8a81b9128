import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { Amount } from '../../src/collector/free-space.ts';
import { type Contents, planCollection, type StoredImage, type StoredLayer } from '../../src/collector/plan.ts';

const date = (time: number): Date => new Date(time * 1000);

function layer(name: string, parent: string, bytes: number, more: Partial<StoredLayer> = {}): StoredLayer {
  return { name, parent, size: { bytes, inodes: 1 }, committed: date(0), uses: [], ...more };
}

function image(chainId: string, used: number, more: Partial<StoredImage> = {}): StoredImage {
  const reference = `image-${chainId}`;
  return { reference, platform: '', chainId, source: '', unpacked: date(0), used: date(used), pinned: false, ...more };
}

const everything = { bytes: Number.POSITIVE_INFINITY, inodes: 0 };
type Seen = Omit<Contents, 'unseen'>;
const planOf = (contents: Seen, want: Amount, unseen?: string) => planCollection({ ...contents, unseen }, want);
const tops = (contents: Seen, bytes = Number.POSITIVE_INFINITY): string[] =>
  planOf(contents, { bytes, inodes: 0 }).removals.map(({ top }) => top);
const whys = (contents: Seen): (readonly [string, string])[] =>
  planOf(contents, everything).kept.map(({ top, why }) => [top, why] as const);

describe('a plan', () => {
  test('removes the least recently used images first, and stops when enough is freed', () => {
    const contents = {
      layers: [layer('a', '', 10), layer('b', '', 20), layer('c', '', 30)],
      images: [image('a', 3), image('b', 1), image('c', 2)],
    };
    assert.deepEqual(tops(contents), ['b', 'c', 'a']);
    assert.deepEqual(tops(contents, 20), ['b']);
    assert.deepEqual(tops(contents, 21), ['b', 'c']);
    assert.deepEqual(tops(contents, 0), []);
    const { frees, couldFree, kept } = planOf(contents, { bytes: 21, inodes: 0 });
    assert.deepEqual([frees.bytes, couldFree.bytes], [50, 60]);
    assert.deepEqual(
      kept.map(({ top, reason }) => [top, reason]),
      [['a', 'spare']],
    );
  });

  test('continues until enough inodes are freed too', () => {
    const contents = { layers: [layer('a', '', 99), layer('b', '', 99)], images: [image('a', 1), image('b', 2)] };
    assert.equal(planOf(contents, { bytes: 10, inodes: 2 }).removals.length, 2);
    assert.equal(planOf(contents, { bytes: 0, inodes: 1 }).removals.length, 1);
  });

  test('keeps a shared layer as long as any image needs it', () => {
    const contents = {
      layers: [layer('base', '', 100), layer('a', 'base', 1), layer('b', 'base', 2)],
      images: [image('a', 1), image('b', 2)],
    };
    assert.deepEqual(
      planOf(contents, everything).removals.map(({ layers, frees }) => [layers, frees.bytes]),
      [
        [['a'], 1],
        [['b', 'base'], 102],
      ],
    );
  });

  test('removes an image only after the images that stand on it, because it frees nothing before', () => {
    const contents = {
      layers: [layer('base', '', 100), layer('app', 'base', 1), layer('other', '', 5)],
      images: [image('base', 1), image('app', 9), image('other', 4)],
    };
    assert.deepEqual(tops(contents), ['other', 'app', 'base']);
  });

  test('counts two references of one chain as one image, which was used when either was used', () => {
    const contents = {
      layers: [layer('a', '', 1), layer('b', '', 1)],
      images: [image('a', 1), image('a', 9, { reference: 'newer' }), image('b', 5)],
    };
    const { removals } = planOf(contents, everything);
    assert.deepEqual(
      removals.map(({ images }) => images.map(({ reference }) => reference)),
      [['image-b'], ['image-a', 'newer']],
    );
  });

  test('counts a layer without an image as one image with the time of its commit', () => {
    const contents = {
      layers: [
        layer('lower', '', 1, { committed: date(1) }),
        layer('upper', 'lower', 1, { committed: date(2) }),
        layer('a', '', 1),
      ],
      images: [image('a', 3)],
    };
    assert.deepEqual(tops(contents), ['upper', 'lower', 'a']);
    assert.deepEqual(tops(contents, 1), ['upper']);
  });

  test('keeps pinned images, layers in use and everything below them, and says why', () => {
    const contents = {
      layers: [
        layer('base', '', 1),
        layer('pinned', 'base', 1),
        layer('mounted', '', 1, { uses: ['mounted at /mnt by process 12'] }),
        layer('on', 'mounted', 1),
      ],
      images: [image('base', 1), image('pinned', 2, { pinned: true }), image('mounted', 3), image('on', 4)],
    };
    assert.deepEqual(tops(contents), ['on']);
    assert.deepEqual(whys(contents), [
      ['pinned', 'pinned'],
      ['base', 'below image-pinned, which is pinned'],
      ['mounted', 'mounted at /mnt by process 12'],
    ]);
  });

  test('removes nothing if somebody may use layers unseen', () => {
    const contents = { layers: [layer('a', '', 1)], images: [image('a', 1)] };
    const { removals, kept, couldFree } = planOf(contents, everything, 'mounts are hidden');
    assert.deepEqual([removals, couldFree.bytes], [[], 0]);
    assert.deepEqual(
      kept.map(({ reason, why }) => [reason, why]),
      [['unseen', 'mounts are hidden']],
    );
  });

  test('removes the upper layers of an image whose lower ones are in use', () => {
    const contents = {
      layers: [layer('base', '', 1, { uses: ['used by job 7'] }), layer('a', 'base', 1)],
      images: [image('a', 1)],
    };
    assert.deepEqual(planOf(contents, everything).removals[0]?.layers, ['a']);
  });

  test('ignores images whose top layer is not there', () => {
    assert.deepEqual(tops({ layers: [layer('a', '', 1)], images: [image('gone', 1)] }), ['a']);
  });

  test('of 2,000 images with 20,000 layers takes a few seconds of a processor at most', () => {
    const layers = Array.from({ length: 20_000 }, (_, index) =>
      layer(`${index}`, index % 10 === 0 ? '' : `${index - 1}`, 1),
    );
    const images = Array.from({ length: 2000 }, (_, index) => image(`${index * 10 + 9}`, index % 77));
    const before = process.cpuUsage();
    assert.equal(planOf({ layers, images }, everything).removals.length, 2000);
    const { user } = process.cpuUsage(before);
    assert.ok(user < 5_000_000, `${user} µs`); // a tenth of a second is usual
  });
});

/** Random stores: layers on earlier layers, images at any of them, some pinned, some layers in use. */
const stores = fc
  .array(
    fc.record({
      parent: fc.nat(),
      root: fc.boolean(),
      bytes: fc.nat(100),
      committed: fc.nat(20),
      inUse: fc.nat(9).map((one) => one === 0),
      images: fc.array(fc.record({ used: fc.nat(20), pinned: fc.nat(9).map((one) => one === 0) }), { maxLength: 2 }),
    }),
    { maxLength: 25 },
  )
  .map((nodes): Seen => {
    const layers = nodes.map(({ parent, root, bytes, committed, inUse }, index) =>
      layer(`${index}`, index === 0 || root ? '' : `${parent % index}`, bytes, {
        committed: date(committed),
        uses: inUse ? ['in use'] : [],
      }),
    );
    const images = nodes.flatMap((node, index) =>
      node.images.map(({ used, pinned }, nth) => image(`${index}`, used, { reference: `${index}-${nth}`, pinned })),
    );
    return { layers, images };
  });
const wants = fc.record({ bytes: fc.nat(1000), inodes: fc.nat(10) });

/** A layer and all below it. */
function chain({ layers }: Seen, top: string): string[] {
  const names: string[] = [];
  for (let one = layers.find(({ name }) => name === top); one !== undefined; ) {
    names.push(one.name);
    const { parent } = one;
    one = layers.find(({ name }) => name === parent);
  }
  return names;
}

describe('any plan for any store', () => {
  const holds = (check: (contents: Seen, want: { bytes: number; inodes: number }) => void): void => {
    fc.assert(fc.property(stores, wants, check), { numRuns: 2000 });
  };
  const removed = (contents: Seen, want = everything): Set<string> =>
    new Set(planOf(contents, want).removals.flatMap(({ layers }) => layers));

  test('leaves pinned images, layers in use and everything below them', () => {
    holds((contents, want) => {
      const kept = [
        ...contents.images.filter(({ pinned }) => pinned).map(({ chainId }) => chainId),
        ...contents.layers.filter(({ uses }) => uses.length > 0).map(({ name }) => name),
      ].flatMap((name) => chain(contents, name));
      const gone = removed(contents, want);
      for (const name of kept) assert.ok(!gone.has(name), name);
    });
  });

  test('removes each layer once, and only when nothing stands on it', () => {
    holds((contents, want) => {
      const there = new Map(contents.layers.map((one) => [one.name, one]));
      for (const { layers } of planOf(contents, want).removals) {
        for (const name of layers) {
          assert.ok(there.delete(name), `${name} goes twice`);
          for (const { parent } of there.values()) assert.notEqual(parent, name);
        }
      }
    });
  });

  test('leaves every layer of every image that is not removed', () => {
    holds((contents, want) => {
      const plan = planOf(contents, want);
      const gone = removed(contents, want);
      const without = new Set(plan.removals.flatMap(({ images }) => images));
      for (const one of contents.images) {
        if (without.has(one)) continue;
        for (const name of chain(contents, one.chainId)) assert.ok(!gone.has(name), `${one.reference} needs ${name}`);
      }
    });
  });

  test('removes the images with the earliest last use of all that can be removed', () => {
    holds((contents, want) => {
      const plan = planOf(contents, want);
      // the last use of a layer and of everything on it
      const last = (top: string): number =>
        Math.max(
          ...[...plan.removals, ...plan.kept]
            .filter((unit) => chain(contents, unit.top).includes(top))
            .map(({ used }) => used.getTime()),
        );
      const order = plan.removals.map(({ top }) => last(top));
      assert.deepEqual(
        order,
        order.toSorted((one, other) => one - other),
      );
      for (const { top, reason } of plan.kept) {
        if (reason === 'spare') assert.ok(last(top) >= (order.at(-1) ?? 0), top);
      }
    });
  });

  test('frees what it says, enough if it can, and no image more than needed', () => {
    holds((contents, want) => {
      const plan = planOf(contents, want);
      const sizes = new Map(contents.layers.map(({ name, size }) => [name, size]));
      const total = (names: Iterable<string>): { bytes: number; inodes: number } => {
        const all = [...names].map((name) => sizes.get(name) ?? assert.fail(name));
        return { bytes: all.reduce((sum, one) => sum + one.bytes, 0), inodes: all.length };
      };
      assert.deepEqual(plan.frees, total(removed(contents, want)));
      assert.deepEqual(plan.couldFree, total(removed(contents)));
      const enough = (amount: { bytes: number; inodes: number }): boolean =>
        amount.bytes >= want.bytes && amount.inodes >= want.inodes;
      const spare = plan.kept.some(({ reason }) => reason === 'spare');
      if (spare) assert.ok(enough(plan.frees));
      const before = plan.removals.slice(0, -1).flatMap(({ layers }) => layers);
      if (plan.removals.length > 0) assert.ok(!enough(total(before)));
    });
  });

  test('accounts for each image exactly once', () => {
    holds((contents, want) => {
      const { removals, kept } = planOf(contents, want);
      const named = [...removals, ...kept].flatMap(({ images }) => images.map(({ reference }) => reference));
      assert.deepEqual(named.sort(), contents.images.map(({ reference }) => reference).sort());
    });
  });
});
