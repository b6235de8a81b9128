import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { chainIds } from '../../src/oci/digest.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import type { Random } from '../fuzz/random.ts';
import { startChild } from '../support/child.ts';
import { type TestImage, writeLayout } from '../support/layout.ts';
import { referenceTrees, type StoreTrees, treesOf, unpackAll } from '../support/store-trees.ts';
import { someImages } from './images.ts';

export type StoreType = Snapshotter['type'];

const UNPACKING = join(import.meta.dirname, 'unpacking.ts');
/** Milliseconds. A copy process may run so long after the process that started it was killed. */
const ORPHAN_LIMIT = 60_000;

/** A process that fills a store. */
export interface Filling extends AsyncDisposable {
  readonly pid: number;
  /** The tags that it has reported as unpacked so far, and whether their layers are on disk. */
  readonly reported: ReadonlyMap<string, boolean>;
  readonly ended: Promise<unknown>;
  kill(): void;
}

/** How a process fills a store. */
export interface Manner {
  readonly durable: boolean;
  /** After so many tags, it syncs what it has. 0: never. */
  readonly syncAfter?: number;
  /** It runs in a mount namespace of its own. */
  readonly elsewhere?: boolean;
}

/** Starts a process that unpacks these tags of a layout, and waits until it runs. */
export async function startFilling(
  root: string,
  type: StoreType,
  layout: string,
  manner: Manner,
  tags: readonly string[],
): Promise<Filling> {
  const { durable, syncAfter = 0, elsewhere = false } = manner;
  const command = [process.execPath, UNPACKING, root, type, layout, String(durable), String(syncAfter), ...tags];
  const [program = '', ...args] = elsewhere ? ['unshare', '-m', ...command] : command;
  const child = startChild(program, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  const reported = new Map<string, boolean>();
  const ended = once(child, 'close');
  let rest = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const [tag = '', isDurable] = line.split(' ');
      if (isDurable !== undefined) reported.set(tag, isDurable === 'true');
    }
  });
  if (child.stdout !== null) await Promise.race([once(child.stdout, 'data'), ended]);
  return {
    pid: child.pid ?? assert.fail('it has not started'),
    reported,
    ended,
    kill: () => void child.kill('SIGKILL'),
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

/** Images, the trees that they must become, and the checks of a store after a kill or a power cut. */
export class Images {
  readonly tags: readonly string[];
  private readonly layout: string;
  private readonly images: Readonly<Record<string, TestImage>>;
  private readonly trees: Readonly<Record<StoreType, StoreTrees>>;
  /** Milliseconds that unpacking all images takes. A kill happens at a random moment of this time. */
  readonly duration: number;

  private constructor(
    layout: string,
    images: Readonly<Record<string, TestImage>>,
    trees: Readonly<Record<StoreType, StoreTrees>>,
    duration: number,
  ) {
    this.layout = layout;
    this.images = images;
    this.tags = Object.keys(images);
    this.trees = trees;
    this.duration = duration;
  }

  static async write(directory: string): Promise<Images> {
    const images = someImages(1);
    const layout = join(directory, 'layout');
    await writeLayout(layout, images);
    const trees = { overlay: await referenceTrees(images), native: await referenceTrees(images, 'native') };
    const unpacked = new Images(layout, images, trees, 0);
    const began = performance.now();
    await using whole = await unpacked.fill(join(directory, 'measured'), 'overlay', { durable: true }, unpacked.tags);
    await whole.ended;
    return new Images(layout, images, trees, performance.now() - began);
  }

  /** As `startFilling`, of these images. */
  fill(root: string, type: StoreType, manner: Manner, tags: readonly string[]): Promise<Filling> {
    return startFilling(root, type, this.layout, manner, tags);
  }

  /** Waits for a random moment while a process runs. */
  async moment(filling: Filling, random: Random): Promise<void> {
    const end = new AbortController();
    const over = sleep(random.below(Math.ceil(this.duration)), undefined, { signal: end.signal }).catch(() => {});
    await Promise.race([over, filling.ended]);
    end.abort();
  }

  /**
   * Opens the store and checks all of it: each layer that it calls usable is complete.
   * @param promised the tags that were reported as unpacked, and must be usable
   * @param durable whether the store is opened to use only synced layers
   * @returns how many layers are usable
   * @throws AssertionError if a layer of a promised image is not usable, or a usable layer is incomplete
   */
  async check(root: string, type: StoreType, promised: Iterable<string>, durable: boolean): Promise<number> {
    const store = await openSnapshotter({ root, type, durable });
    try {
      const names = (await store.walk({ kind: 'committed' })).map(({ name }) => name);
      const trees = await treesOf(store);
      for (const [name, tree] of Object.entries(trees)) {
        assert.deepEqual(tree, this.trees[type][name], `the layer ${name}`);
      }
      for (const tag of promised) {
        for (const name of this.chain(tag)) assert.ok(name in trees, `${tag} was reported and ${name} is not usable`);
      }
      for (const { name, kind } of await store.walk()) if (kind !== 'committed') await store.remove(name);
      await this.nothingElse(store, names.length);
      return Object.keys(trees).length;
    } finally {
      await store.close();
    }
  }

  /** Unpacks all images into the store, over what is there, and checks all of it again. */
  async goOn(root: string, type: StoreType): Promise<void> {
    await unpackAll(root, type, this.layout, this.tags, { durable: true });
    assert.equal(await this.check(root, type, this.tags, true), Object.keys(this.trees[type]).length);
  }

  private chain(tag: string): string[] {
    return chainIds(this.images[tag]?.layers.map(({ diff }) => diff.digest) ?? []);
  }

  /** After a cleanup: one directory for each snapshot, and a sound database. */
  private async nothingElse(store: Snapshotter, snapshots: number): Promise<void> {
    const folder = join(store.root, 'snapshots');
    const end = performance.now() + ORPHAN_LIMIT;
    // a copy process may run longer than the process that was killed, and uses its directory until it ends
    for (;;) {
      await store.cleanup();
      const left = (await readdir(folder)).filter((name) => name !== 'store.json');
      if (left.length === snapshots) break;
      assert.ok(performance.now() < end, `${left.join(', ')} are left of ${snapshots} snapshots`);
      await sleep(20);
    }
    const database = new DatabaseSync(join(store.root, 'metadata.db'), { readOnly: true });
    try {
      assert.equal(database.prepare('PRAGMA integrity_check').get()?.integrity_check, 'ok');
      assert.deepEqual(database.prepare('PRAGMA foreign_key_check').all(), []);
    } finally {
      database.close();
    }
  }
}
