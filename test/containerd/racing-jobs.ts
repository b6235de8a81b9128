import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { chainIds } from '../../src/oci/digest.ts';
import { hostPlatform } from '../../src/oci/platform.ts';
import type { Random } from '../fuzz/random.ts';
import { imageOf, layerOf, type TestImage, writeLayout } from '../support/layout.ts';
import { referenceTrees, treesOf } from '../support/store-trees.ts';
import { directory, file, tar } from '../support/tar.ts';
import { Adopter } from './adopter.ts';
import { wireSnapshots } from './collect.ts';
import { type ContainerdProgram, Daemon } from './daemon.ts';
import { LayoutRegistry } from './layout-registry.ts';

const NAMESPACE = 'k8s.io';
const IMAGES = 8;
/** Jobs of one worker at once, and workers. */
const AT_ONCE = 2;
const WORKERS = 3;
/** Directories of locks and leases. Workers with different ones do not see each other's, only what containerd has. */
const STATES = 2;

/**
 * Jobs that unpack images in several workers. Meanwhile `ctr` pulls the same images from a registry, and pulls and removes
 * others that share layers with them. containerd collects after each removal.
 */
export class RacingJobs implements AsyncDisposable {
  readonly #daemon: Daemon;
  readonly #registry: LayoutRegistry;
  readonly #layout: string;
  readonly #images: Readonly<Record<string, TestImage>>;

  private constructor(
    daemon: Daemon,
    registry: LayoutRegistry,
    layout: string,
    images: Readonly<Record<string, TestImage>>,
  ) {
    this.#daemon = daemon;
    this.#registry = registry;
    this.#layout = layout;
    this.#images = images;
  }

  static async start(program: ContainerdProgram): Promise<RacingJobs> {
    const daemon = await Daemon.start(program);
    const images: Record<string, TestImage> = {};
    for (let number = 0; number < IMAGES; number++) {
      images[`wanted-${number}`] = imageIn(number, 'wanted');
      images[`other-${number}`] = imageIn(number, 'other');
    }
    const layout = join(daemon.directory, 'layout');
    await writeLayout(layout, images);
    return new RacingJobs(daemon, await LayoutRegistry.start({ racing: layout }), layout, images);
  }

  /** Runs so many jobs, and everything else until they have ended. @throws the error of a job that failed */
  async run(jobs: number, random: Random): Promise<void> {
    await using stack = new AsyncDisposableStack();
    const over = new AbortController();
    const racing = [
      this.#until(over.signal, () => this.#pull(`wanted-${random.below(IMAGES)}`)),
      this.#until(over.signal, () => this.#pullAndRemove(`other-${random.below(IMAGES)}`)),
    ];
    let left = jobs;
    const work = async (adopter: Adopter): Promise<void> => {
      while (left-- > 0) {
        // every second job is for an image that is removed meanwhile
        const tag = `${random.oneIn(2) ? 'other' : 'wanted'}-${random.below(IMAGES)}`;
        await adopter.adopt(this.#layout, tag, this.#name(tag));
      }
    };
    try {
      const workers: Promise<void>[] = [];
      for (let worker = 0; worker < WORKERS; worker++) {
        const adopter = stack.use(await this.#adopter(worker % STATES));
        for (let job = 0; job < AT_ONCE; job++) workers.push(work(adopter));
      }
      await Promise.all(workers);
      // an image that no job has drawn
      for (const tag of this.#wanted) await stack.use(await this.#adopter()).adopt(this.#layout, tag, this.#name(tag));
    } finally {
      over.abort();
      await Promise.all(racing);
    }
  }

  /** After a collection, all wanted images are whole, and only images keep anything. */
  async check(): Promise<void> {
    const client = this.#daemon.client(NAMESPACE);
    await using adopter = await this.#adopter();
    await this.#daemon.collect();
    assert.deepEqual((await client.leases.List({})).leases, [], 'leases');

    const { images: named } = await client.images.List({});
    const targets = new Set(named.map(({ target }) => target?.digest));
    const kept = Object.entries(this.#images).filter(([, { manifestDigest }]) => targets.has(manifestDigest));
    for (const tag of this.#wanted) {
      assert.ok(
        kept.some(([name]) => name === tag),
        `${tag} is gone`,
      );
    }
    const snapshots = await wireSnapshots(client);
    assert.deepEqual(
      snapshots.filter(({ kind }) => kind !== 'COMMITTED'),
      [],
      'unfinished snapshots',
    );
    const layers = new Set(kept.flatMap(([, { layers }]) => chainIds(layers.map(({ diff }) => diff.digest))));
    assert.deepEqual(snapshots.map(({ name }) => name).sort(), [...layers].sort(), 'snapshots');
    const directories = readdirSync(join(adopter.store.root, 'snapshots'));
    assert.equal(directories.length, layers.size, `directories: ${directories.join()}`);
    assert.deepEqual(await treesOf(adopter.store), await referenceTrees(Object.fromEntries(kept)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#registry[Symbol.asyncDispose]();
    await this.#daemon[Symbol.asyncDispose]();
  }

  get #wanted(): string[] {
    return Object.keys(this.#images).filter((tag) => tag.startsWith('wanted'));
  }

  #name(tag: string): string {
    return `${this.#registry.address}/racing:${tag}`;
  }

  #adopter(state = 0): Promise<Adopter> {
    const address = { socket: this.#daemon.socket, namespace: NAMESPACE, snapshotter: 'overlayfs' };
    return Adopter.open({ ...address, stateRoot: join(this.#daemon.directory, `unpackd-${state}`), durable: false });
  }

  async #until(signal: AbortSignal, act: () => Promise<void>): Promise<void> {
    while (!signal.aborted) await act();
  }

  async #pull(tag: string): Promise<void> {
    await this.#daemon.ctr(NAMESPACE, 'images', 'pull', '--plain-http', this.#name(tag));
  }

  async #pullAndRemove(tag: string): Promise<void> {
    // the image may be removed by its other name before the pull has unpacked it, which `ctr` reports as an error
    await this.#daemon.tryCtr(NAMESPACE, 'images', 'pull', '--plain-http', this.#name(tag));
    const { images } = await this.#daemon.client(NAMESPACE).images.List({});
    const target = this.#images[tag]?.manifestDigest;
    const names = images.filter((image) => image.target?.digest === target).map(({ name }) => name);
    await this.#daemon.ctr(NAMESPACE, 'images', 'rm', '--sync', ...names);
  }
}

/** Four layers: the first is in all images, the second in every second, the third in the other image of that number. */
function imageIn(number: number, kind: string): TestImage {
  const layer = (name: string) => layerOf(tar(directory('d'), file(`d/${name}`, name), file('d/top', name)));
  return imageOf(['all', `half-${number % 2}`, `pair-${number}`, `${kind}-${number}`].map(layer), hostPlatform());
}
