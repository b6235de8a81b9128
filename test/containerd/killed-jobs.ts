import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { toUnpackError } from '../../src/errors.ts';
import { chainIds } from '../../src/oci/digest.ts';
import { startChild } from '../support/child.ts';
import { eventually } from '../support/eventually.ts';
import { imageOf, layerOf, type TestImage, writeLayout } from '../support/layout.ts';
import { referenceTrees, treesOf } from '../support/store-trees.ts';
import { directory, file, opaque, tar, whiteout } from '../support/tar.ts';
import { Adopter } from './adopter.ts';
import { CallRelay, type RelayedCall } from './call-relay.ts';
import { snapshotNames } from './collect.ts';
import { type ContainerdProgram, Daemon } from './daemon.ts';

/** A moment of a job: before or after its call of this number to containerd. */
export interface Moment {
  readonly call: number;
  readonly phase: 'before' | 'after';
}

/** Calls that change nothing. */
const READS = new Set([
  'Snapshots/Stat',
  'Snapshots/List',
  'Snapshots/Usage',
  'Introspection/Plugins',
  'Content/Info',
  'Images/List',
]);

/**
 * The moments of a job that differ. A call that changes nothing leaves containerd as it is, so before and after it are the same
 * for what is left behind; only who waits for its answer notices.
 * @param calls the methods
 * @param victim who is killed
 */
export function momentsOf(calls: readonly string[], victim: 'containerd' | 'unpackd'): Moment[] {
  return calls.flatMap((method, call): Moment[] => {
    if (!READS.has(method)) return (['before', 'after'] as const).map((phase) => ({ call, phase }));
    return victim === 'containerd' ? [{ call, phase: 'before' }] : [];
  });
}

const ADOPT_ONCE = join(import.meta.dirname, 'adopt-once.ts');
const NAMESPACE = 'k8s.io';
/** Milliseconds that containerd and the connection to it may take to be there again. */
const RETRIES = 60_000;

/**
 * Jobs during which containerd or unpackd is killed. Each has an image of its own. What is left of all of them is checked at
 * the end: there are the layers and documents of the images, and nothing else.
 */
export class KilledJobs implements AsyncDisposable {
  readonly #daemon: Daemon;
  readonly #relay: CallRelay;
  readonly #images: Record<string, TestImage> = {};

  private constructor(daemon: Daemon, relay: CallRelay) {
    this.#daemon = daemon;
    this.#relay = relay;
  }

  static async start(program: ContainerdProgram): Promise<KilledJobs> {
    const daemon = await Daemon.start(program);
    return new KilledJobs(daemon, await CallRelay.start(join(daemon.directory, 'relay.sock'), daemon.socket));
  }

  /** The calls of a job during which nobody is killed, in their order. */
  async calls(): Promise<string[]> {
    const methods: string[] = [];
    const image = await this.#newImage();
    await using adopter = await this.#adopter();
    this.#relay.watch({ before: async ({ method }) => void methods.push(method) });
    await adopter.adopt(...image);
    this.#relay.watch();
    return methods;
  }

  /** The same, with the calls of a process that opens the store first. */
  async callsOfProcess(): Promise<string[]> {
    const methods: string[] = [];
    this.#relay.watch({ before: async ({ method }) => void methods.push(method) });
    const child = this.#adoptOnce(await this.#newImage());
    const [status] = await once(child, 'exit');
    assert.equal(status, 0);
    this.#relay.watch();
    return methods;
  }

  /**
   * containerd is killed at this moment, and starts again. A job fails with an error after which it is retried, if it needs
   * the answer, and the retry succeeds.
   * @param atOnce how many jobs run
   */
  async killContainerd(moment: Moment, atOnce = 1): Promise<void> {
    const images = [];
    for (let job = 0; job < atOnce; job++) images.push(await this.#newImage());
    await using adopter = await this.#adopter();
    let restarted: Promise<void> | undefined;
    this.#relay.watch(
      at(moment, () => {
        // the connection breaks with the kill, so the job goes on before containerd is there again
        restarted = this.#daemon.kill().then(() => this.#daemon.start());
        return restarted;
      }),
    );
    await Promise.all(images.map((image) => this.#retried(adopter, image)));
    this.#relay.watch();
    await restarted;
  }

  /** The process that unpacks is killed at this moment. The next one unpacks the image, and removes what the first has left. */
  async killUnpackd(moment: Moment): Promise<void> {
    const image = await this.#newImage();
    let child: ReturnType<typeof startChild> | undefined;
    this.#relay.watch(
      at(moment, async () => {
        await child?.[Symbol.asyncDispose]();
      }),
    );
    child = this.#adoptOnce(image);
    await once(child, 'exit');
    this.#relay.watch();
    await using adopter = await this.#adopter();
    await adopter.adopt(...image);
  }

  /**
   * After a collection there is what the images need, and nothing else: in containerd's metadata and on its disk. Each layer is
   * as it must be.
   */
  async check(): Promise<void> {
    const client = this.#daemon.client(NAMESPACE);
    await using adopter = await this.#adopter();
    await this.#daemon.collect();
    const { leases } = await client.leases.List({});
    assert.deepEqual(leases, [], 'leases');

    const images = Object.values(this.#images);
    const layers = new Set(images.flatMap(({ layers }) => chainIds(layers.map(({ diff }) => diff.digest))));
    assert.deepEqual(await snapshotNames(client), [...layers].sort(), 'snapshots');
    const directories = readdirSync(join(adopter.store.root, 'snapshots'));
    assert.equal(directories.length, layers.size, `directories: ${directories.join()}`);

    const blobs: string[] = [];
    for await (const { info } of client.content.List({})) blobs.push(...info.map(({ digest }) => digest));
    const documents = images.flatMap(({ manifestDigest, configDigest }) => [manifestDigest, configDigest]);
    assert.deepEqual(blobs.sort(), documents.sort(), 'blobs');
    const { images: named } = await client.images.List({});
    assert.equal(named.length, 3 * images.length, 'a tag, a digest and an ID for each image');

    assert.deepEqual(await treesOf(adopter.store), await referenceTrees(this.#images));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#relay[Symbol.asyncDispose]();
    await this.#daemon[Symbol.asyncDispose]();
  }

  /** A store as a worker has it: what dead processes have left is removed. */
  async #adopter(): Promise<Adopter> {
    const address = { socket: this.#relay.socket, namespace: NAMESPACE, snapshotter: 'overlayfs' };
    const adopter = await Adopter.open({ ...address, stateRoot: this.#stateRoot, durable: false });
    await adopter.tidy();
    return adopter;
  }

  #adoptOnce(image: readonly [layout: string, tag: string, name: string]): ReturnType<typeof startChild> {
    const args = [ADOPT_ONCE, this.#relay.socket, NAMESPACE, this.#stateRoot, ...image];
    return startChild(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  }

  get #stateRoot(): string {
    return join(this.#daemon.directory, 'unpackd');
  }

  async #retried(adopter: Adopter, image: readonly [layout: string, tag: string, name: string]): Promise<void> {
    const deadline = performance.now() + RETRIES;
    await eventually('the job ends', async () => {
      try {
        await adopter.adopt(...image);
        return true;
      } catch (error) {
        const { code, message } = toUnpackError(error);
        assert.equal(code, 'STORE_FAILED', message);
        assert.ok(performance.now() < deadline, message);
        return false;
      }
    });
  }

  async #newImage(): Promise<readonly [layout: string, tag: string, name: string]> {
    const tag = `v${Object.keys(this.#images).length}`;
    const image = smallImage(tag);
    this.#images[tag] = image;
    const layout = join(this.#daemon.directory, `layout-${tag}`);
    await writeLayout(layout, { [tag]: image });
    return [layout, tag, `example.com/killed:${tag}`];
  }
}

/** Three layers that no other image has, which change each other's files. */
function smallImage(word: string): TestImage {
  const [d, hidden] = [directory('d', { uid: 5 }), directory('d/hidden')];
  return imageOf([
    layerOf(tar(d, file('d/word', word), file('d/old', ''), hidden, file('d/hidden/below', ''))),
    layerOf(tar(d, whiteout('d/old'), hidden, opaque('d/hidden'), file('d/hidden/above', word))),
    layerOf(tar(d, file('d/top', word))),
  ]);
}

/** Calls `kill` once, at the moment. */
function at({ call, phase }: Moment, kill: () => Promise<void>) {
  return { [phase]: ({ number }: RelayedCall) => (number === call ? kill() : Promise.resolve()) };
}
