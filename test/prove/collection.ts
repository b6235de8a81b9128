import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Collector } from '../../src/collector/collector.ts';
import { amountOn, missingOf } from '../../src/collector/free-space.ts';
import { lowerDirectories } from '../../src/diff/target.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { isSnapshotError } from '../../src/snapshots/snapshotter.ts';
import type { Store } from '../../src/snapshots/store.ts';
import { chainOf, type Stage, stage, type WorkerProcess } from '../e2e/stage.ts';
import { Random } from '../fuzz/random.ts';
import { type BulkyLayer, bulkyImage, bulkyLayer, sha256 } from '../support/bulky-image.ts';
import { ext4, unavailable } from '../support/file-system.ts';
import type { TestImage } from '../support/layout.ts';
import { inNamespace } from '../support/mount-namespace.ts';
import type { Proof, Run } from './proof.ts';

const DISK_BYTES = 2 * 1024 ** 3;
const MARKS = { UNPACK_GC_LOW: '20%', UNPACK_GC_HIGH: '35%' };
/** Together they take three times the disk. */
const IMAGES = 200;
const BASES = 8;
/** Images that most jobs are for. */
const POPULAR = 30;
const JOBS = 30;
/** Snapshots that are compared with their layers after each round. */
const COMPARED = 8;
/** Milliseconds. Limit of one job, also on a busy machine. */
const JOB_LIMIT = 240_000;

/** Jobs for more images than fit on the disk. Workers collect, end and are killed, and people remove, pin and mount images. */
export const proof: Proof = {
  name: 'collection',
  describes: 'with a full disk, every job ends right, the disk never is full, and pinned and mounted images stay whole',
  missing: () => unavailable(() => ext4()),
  async open(run) {
    const stack = new AsyncDisposableStack();
    try {
      const disk = stack.use(ext4([], DISK_BYTES));
      const s = stack.use(await stage({ root: join(disk.path, 'store') }));
      const env = { ...MARKS, UNPACK_LOCK: '10s', UNPACK_JOBS: '3', UNPACK_DURABLE: 'true' };
      const staying = await s.worker({ ...env, UNPACK_WORKER_NAME: 'staying' });
      const store = await openSnapshotter({ root: s.root, type: 'overlay' });
      stack.defer(() => store.close());
      const place = join(disk.path, 'mounted');
      mkdirSync(place);
      const installation = { s, env, staying, store, place, catalog: new Catalog(s), removed: 0 };
      return {
        attempt: (seed) => round(installation, new Random(seed), run),
        [Symbol.asyncDispose]: () => stack.disposeAsync(),
      };
    } catch (error) {
      await stack.disposeAsync();
      throw error;
    }
  },
};

interface Installation {
  readonly s: Stage;
  readonly env: Readonly<Record<string, string>>;
  readonly staying: WorkerProcess;
  readonly store: Store;
  /** A folder to mount images at. */
  readonly place: string;
  readonly catalog: Catalog;
  /** How many images the worker that stays had removed before this round. */
  removed: number;
}

/** The images, which are made and stored in the bucket when they are needed first. */
class Catalog {
  readonly #stage: Stage;
  readonly #layers = new Map<string, BulkyLayer>();
  readonly #images = new Map<number, Promise<TestImage>>();
  /** The files of each layer, by the name of its snapshot. */
  readonly files = new Map<string, ReadonlyMap<string, string>>();

  constructor(s: Stage) {
    this.#stage = s;
  }

  prefix(index: number): string {
    return `image-${index}`;
  }

  image(index: number): Promise<TestImage> {
    const known = this.#images.get(index) ?? this.#make(index);
    this.#images.set(index, known);
    return known;
  }

  async #make(index: number): Promise<TestImage> {
    const sizes = new Random(index);
    const layers = [
      this.#layer(`base-${index % BASES}`, 20, 'gzip'),
      this.#layer(`app-${index}`, 4 + sizes.below(24), sizes.pick(['gzip', 'zstd', 'gzip'])),
      ...(sizes.oneIn(3) ? [this.#layer(`more-${index}`, 1 + sizes.below(10), 'gzip')] : []),
    ];
    const image = bulkyImage(layers);
    for (const [at, name] of chainOf(image).entries()) this.files.set(name, layers[at]?.files ?? new Map());
    // the server closes connections that were idle between two rounds, and the client of the tests tries once
    const push = () => this.#stage.push(this.prefix(index), { app: image });
    await push().catch(push);
    return image;
  }

  #layer(name: string, files: number, compression: 'gzip' | 'zstd'): BulkyLayer {
    const known = this.#layers.get(name) ?? bulkyLayer(name, { files, ratio: 40, compression });
    this.#layers.set(name, known);
    return known;
  }
}

async function round(installation: Installation, random: Random, run: Run): Promise<void> {
  const { s, catalog } = installation;
  await using stack = new AsyncDisposableStack();
  const used = stack.use(await useSome(installation, random, run));
  const free = stack.use(watchSpace(s.root));
  const indexes = Array.from({ length: JOBS }, () => random.below(random.oneIn(3) ? IMAGES : POPULAR));
  for (const index of indexes) await catalog.image(index);
  const jobs = await s.queue.addBulk(
    indexes.map((index) => ({
      payload: s.payload(catalog.prefix(index)),
      options: { deduplicate: random.oneIn(2) },
    })),
  );
  const ends = Promise.all(jobs.map((job) => s.queue.wait(job, { timeout: JOB_LIMIT })));
  // it is awaited below, after the accidents
  ends.catch(() => {});
  for (let left = 2 + random.below(5); left > 0; left--) {
    await sleep(random.below(800));
    await accident(installation, random, used.indexes, run);
  }
  for (const [index, result] of (await ends).entries()) {
    const image = await catalog.image(indexes[index] ?? 0);
    assert.equal(result.images[0]?.chainId, image.chainId);
  }
  run.count('jobs that ended right', jobs.length);
  assert.equal(installation.staying.child.exitCode, null, installation.staying.log().slice(-2000));
  assert.ok(free.least() > 0, 'the disk was full');
  assert.doesNotMatch(installation.staying.log(), /STORE_FULL|takes no more jobs/);
  const removed = installation.staying.log().match(/"msg":"removed [^"]*: frees/g)?.length ?? 0;
  run.count('images removed by the worker that stays', removed - installation.removed);
  installation.removed = removed;
  await used.check();
  await compareSome(installation, random);
  run.count('snapshots compared with their layers', COMPARED);
}

/** Something that happens while jobs run. @param kept the images that must stay */
async function accident(installation: Installation, random: Random, kept: readonly number[], run: Run): Promise<void> {
  const { s, env, store } = installation;
  const what = random.pick(['kill', 'remove', 'remove', 'collect', 'end']);
  if (what === 'remove') {
    if (await removeLeaf(installation, random, kept)) run.count('leaves removed by people');
  } else if (what === 'collect') {
    const collector = new Collector(store, undefined);
    const share = { percent: 25 + random.below(20) };
    const { removals } = await collector.collect((disk) => missingOf(disk, amountOn(disk, share)), { why: 'asked' });
    run.count('images removed by unpackd gc', removals.length);
  } else {
    const worker = await s.worker(env);
    await sleep(random.below(1500));
    const signal = what === 'kill' ? 'SIGKILL' : 'SIGTERM';
    worker.kill(signal);
    await worker.ended;
    assert.doesNotMatch(worker.log(), /STORE_FULL|takes no more jobs until/);
    run.count(`workers that came, and went by ${signal}`);
  }
}

/** Removes a snapshot without children, as `unpackd snapshots rm`. @returns whether nobody used it */
async function removeLeaf({ store, catalog }: Installation, random: Random, kept: readonly number[]): Promise<boolean> {
  const names = new Set(
    (await Promise.all(kept.map((index) => catalog.image(index)))).flatMap((image) => chainOf(image)),
  );
  const infos = await store.walk({ kind: 'committed' });
  const parents = new Set(infos.map(({ parent }) => parent));
  const leaves = infos.filter(({ name }) => !parents.has(name) && !names.has(name));
  if (leaves.length === 0) return false;
  try {
    await store.remove(random.pick(leaves).name);
    return true;
  } catch (error) {
    if (!isSnapshotError(error, 'FailedPrecondition') && !isSnapshotError(error, 'NotFound')) throw error;
    return false;
  }
}

/** Images in use for one round. */
interface Used extends AsyncDisposable {
  readonly indexes: readonly number[];
  /** Fails unless all of them are there and whole. */
  check(): Promise<void>;
}

/** Pins one image and mounts another one in a mount namespace of its own, if the store has any. */
async function useSome(installation: Installation, random: Random, run: Run): Promise<Used> {
  const { store, catalog, place } = installation;
  const stack = new AsyncDisposableStack();
  const there = (await store.images()).filter(({ broken, chainId }) => broken === undefined && chainId !== undefined);
  const [pinned, mounted] = random.shuffled(there);
  const chosen = [pinned, mounted].filter((image) => image !== undefined);
  const indexes = chosen.map(({ reference }) => Number(/image-(\d+)/.exec(reference)?.[1]));
  if (pinned !== undefined) {
    await store.pinImage(pinned.reference, pinned.platform, true);
    stack.defer(async () => void (await store.pinImage(pinned.reference, pinned.platform, false)));
    run.count('images pinned for a round');
  }
  let holder: number | undefined;
  if (mounted?.chainId !== undefined) {
    const key = `collection ${mounted.chainId}`;
    const layers = lowerDirectories(await store.view(key, mounted.chainId));
    const child = stack.use(await mountElsewhere(layers, place));
    holder = child.pid;
    // only the mount keeps the image now
    await store.remove(key);
    run.count('images mounted for a round');
  }
  const check = async (): Promise<void> => {
    for (const [at, index] of indexes.entries()) {
      const image = await catalog.image(index);
      for (const name of chainOf(image)) assert.ok(await store.has(name), `${name} of image ${index} is gone`);
      if (chosen[at] !== mounted || holder === undefined) continue;
      for (const name of chainOf(image)) compare(`/proc/${holder}/root${place}`, catalog.files.get(name), name);
    }
  };
  return { indexes, check, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Mounts layers, the top one first, at `place` in a mount namespace of its own, until the scope ends. */
function mountElsewhere(layers: readonly string[], place: string) {
  // an overlay needs two layers at least
  return inNamespace(
    layers.length === 1
      ? `mount --bind "${layers[0]}" "${place}"`
      : `mount -t overlay overlay -o "lowerdir=${layers.join(':')}" "${place}"`,
  );
}

/** Reads some snapshots of the store whole. */
async function compareSome({ store, catalog }: Installation, random: Random): Promise<void> {
  const names = (await store.walk({ kind: 'committed' })).map(({ name }) => name);
  for (const name of random.shuffled(names).slice(0, COMPARED)) {
    const key = `compare ${name}`;
    try {
      const [top = ''] = lowerDirectories(await store.view(key, name));
      compare(top, catalog.files.get(name), name);
    } catch (error) {
      // a worker has removed it meanwhile
      if (!isSnapshotError(error, 'NotFound')) throw error;
    } finally {
      await store.remove(key).catch(() => {});
    }
  }
}

function compare(tree: string, files: ReadonlyMap<string, string> | undefined, name: string): void {
  assert.ok(files !== undefined, `${name} is of no image`);
  for (const [path, digest] of files) assert.equal(sha256(readFileSync(join(tree, path))), digest, `${name}: ${path}`);
  const [directory = ''] = [...files.keys()].map((path) => path.split('/')[0]);
  assert.equal(readdirSync(join(tree, directory)).length, files.size, name);
}

/** Looks at the free space all the time. */
function watchSpace(root: string): Disposable & { least(): number } {
  let least = Number.POSITIVE_INFINITY;
  const timer = setInterval(() => {
    const { bavail, bsize } = statfsSync(root);
    least = Math.min(least, bavail * bsize);
  }, 20);
  return { least: () => least, [Symbol.dispose]: () => clearInterval(timer) };
}
