import { randomUUID } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { lowerDirectories } from '../../src/diff/target.ts';
import { UnpackError } from '../../src/errors.ts';
import { chainLayers } from '../../src/oci/descriptor.ts';
import { chainIds, hexOf } from '../../src/oci/digest.ts';
import type { Applier } from '../../src/rootfs/applier.ts';
import { applyLayers } from '../../src/rootfs/apply-layers.ts';
import { ChainLocks } from '../../src/rootfs/chain-locks.ts';
import { ApplyPool } from '../../src/rootfs/pool.ts';
import { openContainerdStore } from '../../src/snapshots/containerd/open.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Mount, Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { SETTINGS } from '../support/apply.ts';
import type { Outcome, StoredLayer } from './containerd.ts';

/**
 * How the layers of an image are scheduled. `parallel`: as in a worker. `sequential`: on a store that can't set the parent
 * at commit. `shuffled`: in parallel, with a random delay after each written layer.
 */
export type Schedule = 'parallel' | 'sequential' | 'shuffled';

/** Failures that an archive can cause. Any other failure fails the test. */
const REFUSALS = new Set(['LAYER_CORRUPT', 'LAYER_UNSAFE', 'LIMIT_EXCEEDED', 'UNSUPPORTED_MEDIA_TYPE']);

/** Where layers are applied: our stores, or the overlayfs of a containerd. */
export type Place = Snapshotter['type'] | 'containerd';

/** The code under test: one store per place and schedule, with one folder of blobs for all. */
export class Unpackd implements AsyncDisposable {
  private readonly directory: string;
  /** The socket of the containerd. */
  private readonly socket: string | undefined;
  private readonly pool = new ApplyPool(2, SETTINGS);
  private readonly stores = new Map<string, Promise<Snapshotter>>();
  private readonly stored = new Set<string>();

  constructor(directory: string, socket?: string) {
    this.directory = directory;
    this.socket = socket;
  }

  /** Applies the layers. Images of the same place and schedule share a store. */
  async apply(layers: readonly StoredLayer[], place: Place, schedule: Schedule = 'parallel'): Promise<Outcome> {
    await this.store(layers);
    const snapshotter = await this.open(place, schedule);
    const applier = this.pool.applier(openSource({ kind: 'oci-layout', path: this.directory }), snapshotter);
    try {
      await applyLayers(chainLayers(layers), snapshotter, schedule === 'shuffled' ? delayed(applier) : applier, {
        locks: new ChainLocks(snapshotter.state),
      });
    } catch (error) {
      if (!(error instanceof UnpackError) || !REFUSALS.has(error.code)) throw error;
      return { kind: 'refused', layer: error.details.layerIndex ?? 0, reason: `${error.code}: ${error.message}` };
    }
    const directories: string[] = [];
    for (const chainId of chainIds(layers.map((layer) => layer.diff.digest))) {
      const [directory] = await withView(snapshotter, chainId, async (mounts) => lowerDirectories(mounts));
      if (directory === undefined) throw new Error(`the snapshot ${chainId} has no directory`);
      directories.push(directory);
    }
    return { kind: 'applied', directories };
  }

  /** Mounts a view of the top layer, as a container of the image sees it, while `use` runs. */
  async view<T>(layers: readonly StoredLayer[], use: (mounts: readonly Mount[]) => Promise<T>): Promise<T> {
    const top = chainIds(layers.map((layer) => layer.diff.digest)).at(-1);
    if (top === undefined) throw new Error('an image needs a layer');
    return withView(await this.open('overlay', 'parallel'), top, use);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pool.close();
    for (const store of this.stores.values()) await (await store).close();
  }

  private open(place: Place, schedule: Schedule): Promise<Snapshotter> {
    const name = `${place}-${schedule}`;
    let store = this.stores.get(name);
    if (store === undefined) {
      store = this.openStore(place, join(this.directory, name));
      if (schedule === 'sequential') store = store.then(withoutRebase);
      this.stores.set(name, store);
    }
    return store;
  }

  private async openStore(place: Place, root: string): Promise<Snapshotter> {
    if (place !== 'containerd') return openSnapshotter({ root, type: place, durable: false });
    if (this.socket === undefined) throw new Error('there is no containerd');
    const address = { socket: this.socket, namespace: 'unpackd', snapshotter: 'overlayfs' };
    return openContainerdStore({ ...address, stateRoot: root, durable: false });
  }

  private async store(layers: readonly StoredLayer[]): Promise<void> {
    const blobs = join(this.directory, 'blobs/sha256');
    await mkdir(blobs, { recursive: true });
    for (const { blob, bytes } of layers) {
      if (this.stored.has(blob.digest)) continue;
      await writeFile(join(blobs, hexOf(blob.digest)), Buffer.isBuffer(bytes) ? bytes : await bytes());
      this.stored.add(blob.digest);
    }
  }
}

async function withView<T>(
  snapshotter: Snapshotter,
  parent: string,
  use: (mounts: readonly Mount[]) => Promise<T>,
): Promise<T> {
  const key = `view-${randomUUID()}`;
  const mounts = await snapshotter.view(key, parent);
  try {
    return await use(mounts);
  } finally {
    await snapshotter.remove(key);
  }
}

/** The same store without rebase: a layer needs its parent from the start, so layers are applied one by one. */
function withoutRebase(snapshotter: Snapshotter): Snapshotter {
  return new Proxy(snapshotter, {
    get(target, name) {
      if (name === 'rebase') return false;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** Adds a random delay, so that layers end in any order. */
function delayed(applier: Applier): Applier {
  return {
    async apply(blob, mounts, options) {
      const diff = await applier.apply(blob, mounts, options);
      await sleep(Math.random() * 25);
      return diff;
    },
  };
}
