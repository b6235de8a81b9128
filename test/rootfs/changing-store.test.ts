import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { lowerDirectories } from '../../src/diff/target.ts';
import { chainLayers } from '../../src/oci/descriptor.ts';
import { chainIds } from '../../src/oci/digest.ts';
import type { Applier } from '../../src/rootfs/applier.ts';
import { applyLayers } from '../../src/rootfs/apply-layers.ts';
import { ChainLocks } from '../../src/rootfs/chain-locks.ts';
import { StoreSync } from '../../src/rootfs/durability.ts';
import { ApplyPool } from '../../src/rootfs/pool.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { changeDatabase } from '../snapshots/temporary-store.ts';
import { altered } from '../support/altered.ts';
import { SETTINGS } from '../support/apply.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, tar } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

/** What another process does to the layers of a running job, and that the job still ends as if it had been alone. */

const LAYERS = [
  layerOf(tar(directory('etc', { mode: 0o750, uid: 5, mtime: 1000 }), file('etc/a', '1'))),
  // it needs the attributes of a directory that only the layer below names
  layerOf(tar(file('etc/b', '2'), directory('usr'))),
  layerOf(tar(file('usr/c', '3'))),
];
const CHAIN = chainIds(LAYERS.map(({ diff }) => diff.digest));
const [BASE = '', MIDDLE = '', TOP = ''] = CHAIN;

/** A store, opened once for jobs that sync and once for jobs that do not. */
async function bench(type: 'overlay' | 'native') {
  const dir = scratch();
  const path = join(dir.path, 'layout');
  await writeLayout(path, { app: imageOf(LAYERS) });
  const root = join(dir.path, 'store');
  const cached = await openSnapshotter({ root, type, durable: false });
  const durable = await openSnapshotter({ root, type, durable: true });
  const pool = new ApplyPool(2, SETTINGS);
  const sync = new StoreSync(root);
  const applied: string[] = [];
  const applierOf = (store: Snapshotter): Applier => {
    const real = pool.applier(openSource({ kind: 'oci-layout', path }), store);
    return {
      apply: (blob, ...rest) => {
        const index = LAYERS.findIndex((layer) => layer.blob.digest === blob.digest);
        applied.push(['base', 'middle', 'top'][index] ?? blob.digest);
        return real.apply(blob, ...rest);
      },
    };
  };
  return {
    root,
    cached,
    durable,
    /** The layers that jobs have written, in the order in which they began. */
    applied,
    applierOf,
    /** Unpacks the first `count` layers. */
    unpack: (store: Snapshotter, count = LAYERS.length, applier = applierOf(store)) =>
      applyLayers(chainLayers(LAYERS.slice(0, count)), store, applier, {
        locks: new ChainLocks(root),
        watch: () => sync.watch(),
      }),
    async [Symbol.asyncDispose]() {
      await pool.close();
      sync[Symbol.dispose]();
      await cached.close();
      await durable.close();
      dir[Symbol.dispose]();
    },
  };
}

/** The own tree of the snapshot, without the times of directories that no layer names. */
async function treeOf(store: Snapshotter, name: string) {
  const [lower = ''] = lowerDirectories(await store.view(`look ${name}`, name));
  const { etc, ...others } = readTree(lower);
  await store.remove(`look ${name}`);
  return [etc?.mode, etc?.owner, etc?.mtime, Object.keys(others)];
}

/** Calls `before` before the first call only. */
function once(before: () => Promise<unknown>): () => Promise<void> {
  let called = false;
  return async () => {
    if (called) return;
    called = true;
    await before();
  };
}

for (const type of ['overlay', 'native'] as const) {
  describe(`a job whose layers another process changes, in the ${type} store`, () => {
    const middle = [
      '0750',
      '5:0',
      1_000_000_000_000n,
      type === 'overlay' ? ['etc/b', 'usr'] : ['etc/a', 'etc/b', 'usr'],
    ];

    it('makes a parent again that is removed before a layer is prepared on it', async () => {
      await using b = await bench(type);
      await b.unpack(b.cached, 1);
      const removeBase = once(() => b.cached.remove(BASE));
      const racing = altered(b.cached, {
        prepare: async (key, parent, ...rest) => {
          if (parent === BASE) await removeBase();
          return b.cached.prepare(key, parent, ...rest);
        },
      });
      assert.equal(await b.unpack(racing), TOP);
      assert.deepEqual(b.applied.toSorted(), ['base', 'base', 'middle', 'top']);
      assert.deepEqual(await treeOf(b.cached, MIDDLE), middle);
    });

    it('makes layers again that are removed after they were made', async () => {
      await using b = await bench(type);
      const removeTop = once(async () => {
        await b.cached.remove(TOP);
        await b.cached.remove(MIDDLE);
      });
      const racing = altered(b.cached, {
        commit: async (name, ...rest) => {
          await b.cached.commit(name, ...rest);
          if (name === TOP) await removeTop();
        },
      });
      assert.equal(await b.unpack(racing), TOP);
      assert.equal(await b.cached.has(TOP), true);
    });

    it('writes only layers again that were not synced, if it demands that', async () => {
      await using b = await bench(type);
      await b.unpack(b.durable, 1);
      await b.unpack(b.cached, 2);
      changeDatabase(b.root, `UPDATE snapshots SET written_on = 'a mount that is gone' WHERE synced = 0`);
      await b.unpack(b.durable, 2);
      assert.deepEqual(b.applied, ['base', 'middle', 'middle']);
      b.applied.length = 0;
      await b.unpack(b.durable);
      changeDatabase(b.root, `UPDATE snapshots SET synced = 0 WHERE key IN ('${BASE}', '${MIDDLE}')`);
      await b.unpack(b.durable);
      assert.deepEqual(b.applied.toSorted(), ['base', 'middle', 'top']);
      assert.deepEqual(await treeOf(b.durable, MIDDLE), middle);
      assert.deepEqual(
        (await b.durable.walk()).map(({ synced }) => synced),
        [true, true, true],
      );
    });

    it('syncs layers that replace suspect ones, also if it demands no syncs', async () => {
      await using b = await bench(type);
      await b.unpack(b.cached);
      changeDatabase(b.root, `UPDATE snapshots SET written_on = 'a mount that is gone' WHERE key = '${BASE}'`);
      await b.unpack(b.cached);
      assert.deepEqual(b.applied.toSorted(), ['base', 'base', 'middle', 'top']);
      const state = (await b.cached.walk()).map(({ name, synced }) => [name, synced] as const);
      assert.deepEqual(
        new Map(state),
        new Map([
          [BASE, true],
          [MIDDLE, false],
          [TOP, false],
        ]),
      );
    });

    it('takes no harm if the parent is replaced, and the old one removed, while it writes on it', async () => {
      await using b = await bench(type);
      await b.unpack(b.cached, 1);
      const replaceBase = once(async () => {
        await b.unpack(b.durable, 1);
        await b.durable.cleanup(); // it waits for the removal of the old one
      });
      const real = b.applierOf(b.cached);
      const applier: Applier = {
        apply: async (...args) => {
          await replaceBase();
          return real.apply(...args);
        },
      };
      assert.equal(await b.unpack(b.cached, 2, applier), MIDDLE);
      assert.deepEqual(await treeOf(b.cached, MIDDLE), middle);
    });
  });
}

describe('a layer that was written before its parent existed, in the overlay store', () => {
  for (const call of ['view', 'commit'] as const) {
    it(`makes the parent again if it is removed before ${call}`, async () => {
      await using b = await bench('overlay');
      const removeBase = once(() => b.cached.remove(BASE));
      const racing = altered(b.cached, {
        view: async (key, parent) => {
          if (call === 'view' && parent === BASE) await removeBase();
          return b.cached.view(key, parent);
        },
        commit: async (name, key, options) => {
          if (call === 'commit' && options?.parent === BASE) await removeBase();
          return b.cached.commit(name, key, options);
        },
      });
      assert.equal(await b.unpack(racing), TOP);
      assert.deepEqual(b.applied.toSorted(), ['base', 'base', 'middle', 'top']);
      assert.deepEqual(await treeOf(b.cached, MIDDLE), ['0750', '5:0', 1_000_000_000_000n, ['etc/b', 'usr']]);
    });
  }

  it('takes its attributes again if the parent is replaced while they are copied', async () => {
    await using b = await bench('overlay');
    const replaceBase = once(async () => {
      await b.unpack(b.durable, 1);
      await b.durable.cleanup(); // it waits for the removal of the old one
    });
    const racing = altered(b.cached, {
      view: async (...args) => {
        const mounts = await b.cached.view(...args);
        await replaceBase();
        return mounts;
      },
    });
    await b.unpack(racing, 2);
    assert.deepEqual(await treeOf(b.cached, MIDDLE), ['0750', '5:0', 1_000_000_000_000n, ['etc/b', 'usr']]);
  });
});
