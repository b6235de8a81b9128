import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { copyParentAttributesInTurns } from '../../src/diff/parent-attributes.ts';
import { diffTarget } from '../../src/diff/target.ts';
import { chainLayers } from '../../src/oci/descriptor.ts';
import type { Applier } from '../../src/rootfs/applier.ts';
import { applyLayers } from '../../src/rootfs/apply-layers.ts';
import { ChainLocks } from '../../src/rootfs/chain-locks.ts';
import { ApplyPool } from '../../src/rootfs/pool.ts';
import { StoreProbe } from '../../src/rootfs/store-probe.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import type { Store } from '../../src/snapshots/store.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { altered } from '../support/altered.ts';
import { SETTINGS } from '../support/apply.ts';
import { imageOf, layerOf, type TestLayer, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, tar } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const held = ['1', '2', '3'].map((text) => layerOf(tar(directory('d', { mtime: 5 }), file('d/held', text))));
// the directory of the second layer gets its attributes from the first
const wanted = [layerOf(tar(directory('d', { mode: 0o700 }), file('d/a'))), layerOf(tar(file('d/b')))];

type Apply = (layers: readonly TestLayer[], store: Snapshotter, change?: Change) => Promise<unknown>;
type Change = (applier: Applier) => Applier;

/** A store, and another one with snapshots of the same numbers, which can be mounted over it. */
async function twoStores(type: Snapshotter['type'], body: (stores: Stores) => Promise<void>): Promise<void> {
  using place = scratch();
  await using stack = new AsyncDisposableStack();
  const pool = new ApplyPool(2, SETTINGS);
  stack.defer(() => pool.close());
  const path = join(place.path, 'layout');
  await writeLayout(path, { held: imageOf(held), wanted: imageOf(wanted) });
  const source = openSource({ kind: 'oci-layout', path });
  const apply: Apply = (layers, store, change = (applier) => applier) => {
    const applier = change(pool.applier(source, store));
    return applyLayers(chainLayers(layers), store, applier, { locks: new ChainLocks(store.root) });
  };
  const open = async (name: string) => {
    const store = await openSnapshotter({ root: join(place.path, name), type, durable: false });
    stack.defer(() => store.close());
    return store;
  };
  const [store, other] = [await open('store'), await open('other')];
  await apply(held, other);
  mkdirSync(join(place.path, 'empty'));
  const mount = (what: string) => {
    execFileSync('mount', ['--bind', what, store.root]);
    stack.defer(() => void execFileSync('umount', ['-l', store.root]));
  };
  const tree = readTree(other.root);
  await body({ store, other, empty: join(place.path, 'empty'), apply, mount });
  assert.deepEqual(readTree(other.root), tree, 'nothing in the other store has changed');
}

interface Stores {
  readonly store: Store;
  readonly other: Store;
  /** A directory without a store. */
  readonly empty: string;
  readonly apply: Apply;
  /** Mounts a directory over the store. */
  mount(what: string): void;
}

/** Calls `before` before the first layer is written. */
const beforeFirst =
  (before: () => void): Change =>
  (applier) => {
    let called = false;
    return {
      apply: (...parameters) => {
        if (!called) before();
        called = true;
        return applier.apply(...parameters);
      },
    };
  };

for (const type of ['overlay', 'native'] as const) {
  describe(`a store that is mounted over a ${type} store after a snapshot was prepared`, () => {
    it('gets no file of its layer', async () => {
      await twoStores(type, async ({ store, other, apply, mount }) => {
        const applied = apply(
          wanted.slice(0, 1),
          store,
          beforeFirst(() => mount(other.root)),
        );
        await assert.rejects(applied, {
          code: 'STORE_FAILED',
          message: /snapshots\/\d+\/fs: it is not the directory that was prepared: .*restart unpackd/,
        });
      });
    });

    it('gets no file of a probe', async () => {
      await twoStores(type, async ({ store, other, mount }) => {
        const late = altered(store, {
          prepare: async (...parameters) => {
            const mounts = await store.prepare(...parameters);
            mount(other.root);
            return mounts;
          },
        });
        const probe = new StoreProbe(late, new ChainLocks(store.root));
        await assert.rejects(probe.check(), { code: 'STORE_FAILED' });
      });
    });

    it('makes the layer STORE_FAILED, also if it has no snapshot of that number', async () => {
      await twoStores(type, async ({ store, empty, apply, mount }) => {
        const applied = apply(
          wanted.slice(0, 1),
          store,
          beforeFirst(() => mount(empty)),
        );
        await assert.rejects(applied, {
          code: 'STORE_FAILED',
          message: /is not there any more; is its disk not mounted/,
        });
      });
    });
  });
}

describe('a store that is mounted after a layer was written', () => {
  it('gets no attributes of its directories', async () => {
    await twoStores('overlay', async ({ store, other, apply, mount }) => {
      const late = altered(store, {
        view: async (...parameters) => {
          const mounts = await store.view(...parameters);
          mount(other.root);
          return mounts;
        },
      });
      await assert.rejects(apply(wanted, late), {
        code: 'STORE_FAILED',
        message: /not the directory that was prepared/,
      });
    });
  });

  it('gives no attributes of its directories', async () => {
    await twoStores('overlay', async ({ store, other }) => {
      const mounts = await store.prepare('key', '');
      const target = { ...diffTarget(mounts, 'nothing', store, 'key'), lowers: [join(other.root, 'snapshots/1/fs')] };
      const implied = { path: 'd', inode: 1n, given: undefined, inUnnamed: false, timed: false, deleted: false };
      const copied = copyParentAttributesInTurns(target, [implied], undefined, undefined);
      await assert.rejects(copied, { code: 'STORE_FAILED', message: /not the directory that was prepared/ });
    });
  });
});
