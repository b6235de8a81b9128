import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import '../support/needs-root.ts';
import { UnpackError } from '../../src/errors.ts';
import { chainLayers } from '../../src/oci/descriptor.ts';
import { type ChainId, chainIds } from '../../src/oci/digest.ts';
import type { Applier } from '../../src/rootfs/applier.ts';
import {
  type ApplyLayersOptions,
  applyLayers as applyChain,
  applyLayer,
  type LayerObserver,
} from '../../src/rootfs/apply-layers.ts';
import { ChainLocks } from '../../src/rootfs/chain-locks.ts';
import { removeLeftovers } from '../../src/rootfs/leftovers.ts';
import { ApplyPool } from '../../src/rootfs/pool.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { SnapshotError, type Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { defaultAcl } from '../support/acl.ts';
import { altered } from '../support/altered.ts';
import { SETTINGS } from '../support/apply.ts';
import { imageOf, layerOf, type TestLayer, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const MB = 1 << 20;

const applyLayers = (
  layers: readonly TestLayer[],
  ...rest: [Snapshotter, Applier, ApplyLayersOptions]
): Promise<ChainId> => applyChain(chainLayers(layers), ...rest);

/** A store, an applier of these layers, and the digests of the blobs that it has applied. */
async function bench(layers: readonly TestLayer[], type: 'overlay' | 'native' = 'overlay') {
  const dir = scratch();
  const path = join(dir.path, 'layout');
  await writeLayout(path, { app: imageOf(layers) });
  const snapshotter = await openSnapshotter({ root: join(dir.path, 'store'), type, durable: false });
  const pool = new ApplyPool(2, SETTINGS);
  const applied: string[] = [];
  const real = pool.applier(openSource({ kind: 'oci-layout', path }), snapshotter);
  const applier: Applier = {
    apply: (blob, mounts, options) => {
      applied.push(blob.digest);
      return real.apply(blob, mounts, options);
    },
  };
  const options = { locks: new ChainLocks(snapshotter.state) } satisfies ApplyLayersOptions;
  return {
    snapshotter,
    applier,
    applied,
    options,
    async [Symbol.asyncDispose]() {
      await pool.close();
      await snapshotter.close();
      dir[Symbol.dispose]();
    },
  };
}

/** The tree of a snapshot in the native store, or of its own layer in the overlay store. */
async function treeOf(snapshotter: Snapshotter, name: string) {
  const key = `look ${name}`;
  const [mount] = await snapshotter.view(key, name);
  try {
    const lower = mount?.options.find((option) => option.startsWith('lowerdir='))?.slice('lowerdir='.length);
    return readTree(mount?.type === 'bind' ? mount.source : (lower?.split(':')[0] ?? ''));
  } finally {
    await snapshotter.remove(key);
  }
}

const names = async (snapshotter: Snapshotter): Promise<string[]> =>
  (await snapshotter.walk()).map(({ name }) => name).sort();

const three = (): TestLayer[] => [
  layerOf(tar(directory('etc', { mode: 0o750, uid: 5, mtime: 1000 }), file('etc/a', '1'))),
  layerOf(tar(file('etc/b', '2'), directory('usr'))),
  layerOf(tar(whiteout('etc/a'), file('usr/c', '3'))),
];

for (const type of ['overlay', 'native'] as const) {
  describe(`applyLayers in the ${type} store`, () => {
    it('applies each layer on its parent and returns the chain ID of the top layer', async () => {
      const layers = three();
      await using b = await bench(layers, type);
      const top = await applyLayers(layers, b.snapshotter, b.applier, b.options);
      const chain = chainIds(layers.map((layer) => layer.diff.digest));
      assert.equal(top, chain[2]);
      assert.deepEqual(await names(b.snapshotter), [...chain].sort());
      assert.equal((await b.snapshotter.stat(top)).parent, chain[1]);
      const tree = await treeOf(b.snapshotter, top);
      if (type === 'native') assert.deepEqual(Object.keys(tree), ['etc', 'etc/b', 'usr', 'usr/c']);
      else assert.equal(tree['etc/a']?.device, '0:0');
    });

    it('records the size of each snapshot', async () => {
      const layers = three();
      await using b = await bench(layers, type);
      const top = await applyLayers(layers, b.snapshotter, b.applier, b.options);
      const inodes = await Promise.all(
        chainIds(layers.map((layer) => layer.diff.digest)).map(
          async (name) => (await b.snapshotter.stat(name)).size?.inodes,
        ),
      );
      // what a layer deletes from the copy of its parent is not subtracted
      assert.deepEqual(inodes, type === 'native' ? [3, 5, 6] : [3, 4, 5]);
      assert.equal((await b.snapshotter.usage(top)).inodes, 5);
    });

    it('applies nothing if the top layer exists', async () => {
      const layers = three();
      await using b = await bench(layers, type);
      await applyLayers(layers, b.snapshotter, b.applier, b.options);
      b.applied.length = 0;
      await applyLayers(layers, b.snapshotter, b.applier, b.options);
      assert.deepEqual(b.applied, []);
    });

    it('applies only the missing layers', async () => {
      const layers = three();
      await using b = await bench(layers, type);
      await applyLayers(layers.slice(0, 2), b.snapshotter, b.applier, b.options);
      b.applied.length = 0;
      await applyLayers(layers, b.snapshotter, b.applier, b.options);
      assert.deepEqual(b.applied, [layers[2]?.blob.digest]);
    });

    it('labels each snapshot with its chain ID and DiffID', async () => {
      const layers = three();
      await using b = await bench(layers, type);
      const top = await applyLayers(layers, b.snapshotter, b.applier, { ...b.options, labels: { team: 'x' } });
      const { labels } = await b.snapshotter.stat(top);
      assert.equal(labels['containerd.io/snapshot.ref'], top);
      assert.equal(labels['containerd.io/snapshot/diff-id'], layers[2]?.diff.digest);
      assert.equal(labels.team, 'x');
    });

    it('refuses a layer with a wrong DiffID and removes its snapshot', async () => {
      const [first, second] = three();
      assert.ok(first && second);
      const lie = { ...second, diff: { digest: first.diff.digest } };
      await using b = await bench([first, second], type);
      await assert.rejects(applyLayers([first, lie], b.snapshotter, b.applier, b.options), (error) => {
        assert.ok(error instanceof UnpackError);
        assert.equal(error.code, 'DIFF_ID_MISMATCH');
        assert.match(error.message, /^layer 2 of 2 \(sha256:/);
        assert.equal(error.details.layerIndex, 1);
        assert.equal(error.details.actual, second.diff.digest);
        return true;
      });
      for (const name of await names(b.snapshotter)) assert.doesNotMatch(name, /^extract-/);
      assert.equal(
        (await names(b.snapshotter)).includes(chainIds([first.diff.digest, first.diff.digest])[1] ?? ''),
        false,
      );
    });

    it('keeps the layers below a failed one, and reuses them in the next attempt', async () => {
      const layers = three();
      await using b = await bench(layers, type);
      const top = layers[2]?.blob.digest;
      let broken = true;
      const flaky: Applier = {
        apply: async (blob, mounts, options) => {
          if (broken && blob.digest === top) throw new UnpackError('BLOB_NOT_FOUND', 'not there yet');
          return b.applier.apply(blob, mounts, options);
        },
      };
      await assert.rejects(applyLayers(layers, b.snapshotter, flaky, b.options), { code: 'BLOB_NOT_FOUND' });
      assert.deepEqual(
        await names(b.snapshotter),
        chainIds(layers.map((layer) => layer.diff.digest))
          .slice(0, 2)
          .sort(),
      );
      broken = false;
      b.applied.length = 0;
      await applyLayers(layers, b.snapshotter, flaky, b.options);
      assert.deepEqual(b.applied, [top]);
    });

    it('applies each layer once for many calls at the same time', async () => {
      const base = three();
      const other = [...base.slice(0, 2), layerOf(tar(file('other', 'x')))];
      await using b = await bench([...base, ...other.slice(2)], type);
      await Promise.all(
        Array.from({ length: 10 }, (_, i) =>
          applyLayers(i % 2 === 0 ? base : other, b.snapshotter, b.applier, b.options),
        ),
      );
      assert.deepEqual([...b.applied].sort(), [...base, ...other.slice(2)].map((layer) => layer.blob.digest).sort());
    });

    it('throws the reason of an abort and leaves nothing behind', async () => {
      const layers = three();
      await using b = await bench(layers, type);
      const abort = new AbortController();
      const waiting: Applier = {
        apply: (_blob, _mounts, { signal }) =>
          new Promise((_resolve, reject) => {
            signal?.addEventListener('abort', () => reject(signal.reason));
            abort.abort(new UnpackError('SHUTTING_DOWN', 'the worker stops'));
          }),
      };
      const stopped = applyLayers(layers, b.snapshotter, waiting, { ...b.options, signal: abort.signal });
      await assert.rejects(stopped, { code: 'SHUTTING_DOWN' });
      assert.deepEqual(await names(b.snapshotter), []);
      assert.deepEqual(readdirSync(join(b.snapshotter.root, 'locks')), []);
    });

    it('returns whether it applied a single layer', async () => {
      const [first, second] = three();
      assert.ok(first && second);
      await using b = await bench([first, second], type);
      assert.equal(await applyLayer(first, [], b.snapshotter, b.applier, b.options), true);
      assert.equal(await applyLayer(second, [first.diff.digest], b.snapshotter, b.applier, b.options), true);
      assert.equal(await applyLayer(second, [first.diff.digest], b.snapshotter, b.applier, b.options), false);
    });

    it('refuses a single layer whose parents are missing', async () => {
      const [first, second] = three();
      assert.ok(first && second);
      await using b = await bench([first, second], type);
      const lonely = applyLayer(second, [first.diff.digest], b.snapshotter, b.applier, b.options);
      await assert.rejects(lonely, { code: 'STORE_FAILED' });
      assert.deepEqual(await names(b.snapshotter), []);
    });

    it('retries with another key if one is taken, and succeeds if another process has committed the layer', async () => {
      const layers = three().slice(0, 1);
      await using b = await bench(layers, type);
      const keys: string[] = [];
      const busy = altered(b.snapshotter, {
        prepare: async (key, parent, options) => {
          keys.push(key);
          if (keys.length < 3) throw new SnapshotError('AlreadyExists', `${key} is taken`);
          return b.snapshotter.prepare(key, parent, options);
        },
        commit: async (name, key, options) => {
          await b.snapshotter.prepare('rival', '');
          await b.snapshotter.commit(name, 'rival', options);
          return b.snapshotter.commit(name, key, options);
        },
      });
      const top = await applyLayers(layers, busy, b.applier, b.options);
      assert.equal(new Set(keys).size, 3);
      for (const key of keys) assert.match(key, new RegExp(`^extract-\\d+-\\S{4} ${top}$`));
      assert.deepEqual(await names(b.snapshotter), [top]);
    });

    it('logs a warning if the extraction snapshot of a failed layer cannot be removed', async () => {
      const layers = three().slice(0, 1);
      await using b = await bench(layers, type);
      const stuck = altered(b.snapshotter, { remove: () => Promise.reject(new Error('the disk is gone')) });
      const failing: Applier = { apply: () => Promise.reject(new UnpackError('LAYER_CORRUPT', 'bad')) };
      const lines: string[] = [];
      const log = (level: string, sentence: string): void => void lines.push(`${level} ${sentence}`);
      await assert.rejects(applyLayers(layers, stuck, failing, { ...b.options, log }), { code: 'LAYER_CORRUPT' });
      assert.match(lines.join('\n'), /warn could not remove the extraction snapshot extract-.*the disk is gone/);
    });
  });
}

describe('a layer that waits for the layer below', () => {
  for (const rebase of [true, false]) {
    it(`is reported, ${rebase ? 'when it is written' : 'before it is written'}`, async () => {
      const layers = [layerOf(tar(file('a', 'x'))), layerOf(tar(file('b', 'y')))];
      await using b = await bench(layers);
      const waits = Promise.withResolvers<void>();
      const told: unknown[] = [];
      const observer: LayerObserver = {
        phase: (index, phase) => void told.push(`${index} ${phase}`),
        waitsBelow(index, yes) {
          told.push(`${index} ${yes ? 'waits' : 'continues'}`);
          waits.resolve();
        },
        progress() {},
        done: (index) => void told.push(`${index} done`),
      };
      const applier: Applier = {
        async apply(blob, mounts, options) {
          // the lower layer is written when the upper one waits for it
          if (blob.digest === layers[0]?.blob.digest) await waits.promise;
          return b.applier.apply(blob, mounts, options);
        },
      };
      await applyLayers(layers, altered(b.snapshotter, { rebase }), applier, { ...b.options, observer });
      const order = told.filter((event) => /done|waits|continues|applied/.test(String(event)));
      assert.deepEqual(
        order,
        rebase
          ? ['1 done', '1 waits', '0 done', '0 applied', '1 continues', '1 applied']
          : ['1 waits', '0 done', '0 applied', '1 continues', '1 done', '1 applied'],
      );
    });
  }
});

describe('a layer that needs a second pass', () => {
  const late = (): TestLayer[] => [
    layerOf(tar(directory('d', { mode: 0o700, uid: 5, mtime: 1000 }), file('d/old'))),
    layerOf(tar(file('d/new'), whiteout('d'))),
  ];

  it('is written again into a new snapshot, and reported once', async () => {
    const layers = late();
    await using b = await bench(layers, 'native');
    const done: number[] = [];
    const observer: LayerObserver = { phase() {}, waitsBelow() {}, progress() {}, done: (index) => done.push(index) };
    const top = await applyLayers(layers, b.snapshotter, b.applier, { ...b.options, observer });
    const digests = layers.map(({ blob }) => blob.digest);
    assert.deepEqual(b.applied, [...digests, digests[1]]);
    assert.deepEqual(done, [0, 1]);
    const tree = await treeOf(b.snapshotter, top);
    assert.deepEqual([tree.d?.mode, tree.d?.owner, Object.keys(tree)], ['0755', '0:0', ['d', 'd/new']]);
    assert.deepEqual(await names(b.snapshotter), chainIds(layers.map(({ diff }) => diff.digest)).sort());
  });

  it('is written on its parent in the second pass, and gives the same tree in any order of layers', async () => {
    const layers = [
      layerOf(
        tar(directory('d', { mtime: 1000, pax: [defaultAcl('user::rwx,user:7:rwx,group::r-x,mask::rwx,other::---')] })),
      ),
      layerOf(tar(file('d/new', 'x'))),
    ];
    const trees = [];
    for (const rebase of [true, false]) {
      await using b = await bench(layers);
      const below: string[] = [];
      const applier: Applier = {
        apply: (blob, mounts, options) => {
          if (blob.digest === layers[1]?.blob.digest) below.push(options.below);
          return b.applier.apply(blob, mounts, options);
        },
      };
      const top = await applyLayers(layers, altered(b.snapshotter, { rebase }), applier, b.options);
      assert.deepEqual(below, [rebase ? 'later' : 'parent', 'parent']);
      trees.push(await treeOf(b.snapshotter, top));
      assert.equal((await b.snapshotter.walk()).length, 2);
    }
    const [tree] = trees;
    assert.ok(tree?.['d/new']?.xattrs?.['system.posix_acl_access']);
    assert.equal(tree?.d?.mtime, 1000n * 1_000_000_000n);
    const withoutTime = (all: typeof tree | undefined) => ({ ...all, 'd/new': { ...all?.['d/new'], mtime: 0 } });
    assert.deepEqual(withoutTime(trees[1]), withoutTime(trees[0]));
  });

  it('leaves nothing behind if the second pass fails', async () => {
    const layers = late();
    await using b = await bench(layers, 'native');
    const failing: Applier = {
      apply: (blob, mounts, options) => {
        if (options.findings !== undefined) throw new UnpackError('SOURCE_UNAVAILABLE', 'the source went away');
        return b.applier.apply(blob, mounts, options);
      },
    };
    await assert.rejects(applyLayers(layers, b.snapshotter, failing, b.options), { code: 'SOURCE_UNAVAILABLE' });
    assert.deepEqual(await names(b.snapshotter), [layers[0]?.diff.digest]);
  });
});

describe('applyLayers in a store that can rebase', () => {
  it('writes an upper layer before its parent exists, and commits it after its parent', async () => {
    const layers = three().slice(0, 2);
    await using b = await bench(layers);
    const order: string[] = [];
    const { promise: upperDone, resolve } = Promise.withResolvers<void>();
    const applier: Applier = {
      apply: async (blob, mounts, options) => {
        if (blob.digest === layers[0]?.blob.digest) await upperDone;
        const diff = await b.applier.apply(blob, mounts, options);
        order.push(`applied ${options.below}`);
        resolve();
        return diff;
      },
    };
    await applyLayers(layers, b.snapshotter, applier, b.options);
    assert.deepEqual(order, ['applied later', 'applied nothing']);
  });

  /** A small layer below a middling one, a large one and a tiny one. */
  const four = () =>
    [2, 3, 5, 0].map((size, index) => layerOf(tar(file(`${index}`, randomBytes(size * MB * 1.5))), 'none'));
  const missing = (layers: readonly TestLayer[]) => new Set(chainIds(layers.map(({ diff }) => diff.digest)));

  it('begins the largest of the missing layers first, in a store that has none of them', async () => {
    const layers = four();
    await using b = await bench(layers);
    const parents: string[] = [];
    const store = altered(b.snapshotter, {
      prepare: (key, parent, options) => {
        parents.push(parent);
        return b.snapshotter.prepare(key, parent, options);
      },
    });
    await applyLayers(layers, store, b.applier, { ...b.options, missing: missing(layers) });
    assert.deepEqual(
      b.applied,
      [2, 1, 0, 3].map((index) => layers[index]?.blob.digest),
    );
    // no call for a parent that is known to be missing
    assert.deepEqual(parents, ['', '', '', '']);
  });

  it('begins a small layer while another process makes a larger one below it', async () => {
    const layers = four();
    await using b = await bench(layers);
    const [chainId] = chainIds(layers.map(({ diff }) => diff.digest));
    assert.ok(chainId !== undefined);
    const other = await new ChainLocks(b.snapshotter.state).acquire(chainId);
    const applier: Applier = {
      apply: async (blob, mounts, options) => {
        if (blob.digest === layers[3]?.blob.digest) other[Symbol.dispose]();
        return b.applier.apply(blob, mounts, options);
      },
    };
    await applyLayers(layers, b.snapshotter, applier, { ...b.options, missing: missing(layers) });
    assert.equal(b.applied.at(-1), layers[0]?.blob.digest);
  });

  it('applies only the missing layers also if the caller has seen more to be missing', async () => {
    const layers = four();
    await using b = await bench(layers);
    await applyLayers(layers.slice(0, 2), b.snapshotter, b.applier, b.options);
    b.applied.length = 0;
    const top = await applyLayers(layers, b.snapshotter, b.applier, { ...b.options, missing: missing(layers) });
    assert.deepEqual(
      b.applied,
      [2, 3].map((index) => layers[index]?.blob.digest),
    );
    assert.equal((await b.snapshotter.stat(top)).parent, [...missing(layers)][2]);
  });

  it('gives implied directories the same attributes in any order of layers', async () => {
    const layers = three();
    const trees = [];
    for (const rebase of [true, false]) {
      await using b = await bench(layers);
      const store = altered(b.snapshotter, { rebase });
      await applyLayers(layers, store, b.applier, b.options);
      const middle = chainIds(layers.map((layer) => layer.diff.digest))[1];
      trees.push((await treeOf(b.snapshotter, middle ?? '')).etc);
    }
    assert.deepEqual(trees[0], { type: 'directory', mode: '0750', owner: '5:0', mtime: 1000n * 1_000_000_000n });
    assert.deepEqual(trees[1], trees[0]);
  });

  it('stops the layers below if a layer fails for good', async () => {
    const layers = three().slice(0, 2);
    await using b = await bench(layers);
    let stopped = false;
    const applier: Applier = {
      apply: async (blob, _mounts, { signal }) => {
        if (blob.digest === layers[1]?.blob.digest) throw new UnpackError('LAYER_UNSAFE', 'hostile');
        await new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason)));
        stopped = true;
        throw new Error('unreachable');
      },
    };
    await assert.rejects(applyLayers(layers, b.snapshotter, applier, b.options), (error) => {
      assert.ok(error instanceof UnpackError);
      assert.equal(error.code, 'LAYER_UNSAFE');
      assert.equal(error.details.layerIndex, 1);
      return true;
    });
    assert.equal(stopped, false);
    assert.deepEqual(await names(b.snapshotter), []);
  });

  it('reports the layer below if its failure stopped the layer above', async () => {
    const layers = three().slice(0, 2);
    await using b = await bench(layers);
    const applier: Applier = {
      apply: async (blob, _mounts, { signal }) => {
        if (blob.digest === layers[0]?.blob.digest) throw new UnpackError('BLOB_NOT_FOUND', 'no such blob');
        return new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason)));
      },
    };
    await assert.rejects(applyLayers(layers, b.snapshotter, applier, b.options), (error) => {
      assert.ok(error instanceof UnpackError);
      assert.equal(error.details.layerIndex, 0);
      assert.match(error.message, /^layer 1 of 2/);
      return true;
    });
  });
});

describe('removeLeftovers', () => {
  it('removes the extraction snapshots of a dead worker and keeps those of a living one', async () => {
    const [first, second] = three();
    assert.ok(first && second);
    await using b = await bench([first, second]);
    const dead = first.diff.digest;
    const living = chainIds([second.diff.digest])[0];
    assert.ok(living);
    await b.snapshotter.prepare(`extract-1-aaaa ${dead}`, '');
    await b.snapshotter.prepare(`extract-2-bbbb ${living}`, '');
    await b.snapshotter.prepare('somebody’s own', '');
    {
      using _lock = await b.options.locks.acquire(living);
      assert.equal(await removeLeftovers(b.snapshotter), 1);
    }
    assert.deepEqual(await names(b.snapshotter), [`extract-2-bbbb ${living}`, 'somebody’s own']);
  });
});

describe('ChainLocks', () => {
  it('admit one holder at a time', async () => {
    using dir = scratch();
    const locks = new ChainLocks(dir.path);
    const id = chainIds([three()[0]?.diff.digest].filter((digest) => digest !== undefined))[0];
    assert.ok(id);
    let inside = 0;
    await Promise.all(
      Array.from({ length: 5 }, async () => {
        using _lock = await locks.acquire(id);
        inside++;
        assert.equal(inside, 1);
        await sleep(5);
        inside--;
      }),
    );
    assert.deepEqual(readdirSync(join(dir.path, 'locks')), []);
  });

  it('stop waiting when the signal is aborted', async () => {
    using dir = scratch();
    const locks = new ChainLocks(dir.path);
    const id = chainIds([three()[0]?.diff.digest].filter((digest) => digest !== undefined))[0];
    assert.ok(id);
    using _lock = await locks.acquire(id);
    await assert.rejects(locks.acquire(id, AbortSignal.timeout(30)), { code: 'TIMED_OUT' });
  });
});
