import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { type LocalRedis, startRedis } from '../../dev/redis-server.ts';
import { loadConfig } from '../../src/config.ts';
import { chainIds } from '../../src/oci/digest.ts';
import type { Payload } from '../../src/queue/formats.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { BUCKET, startTestBucket, type TestBucket } from '../support/bucket.ts';
import { endChild, startChild } from '../support/child.ts';
import { type FaultyProxy, startFaultyProxy } from '../support/faulty-s3.ts';
import { imageOf, layerOf, layoutFiles, type TestImage, type TestLayer } from '../support/layout.ts';
import { type StoreTrees, treesOf } from '../support/store-trees.ts';
import { directory, file, type Member, tar } from '../support/tar.ts';

const WORKER = new URL('../../workers/unpack.ts', import.meta.url).pathname;
/** Milliseconds after which a wait counts as a hang, even on a busy machine. */
const PATIENCE = 120_000;

/** One worker process. */
export interface WorkerProcess {
  readonly child: ChildProcess;
  /** Its log so far. It lags behind everything else that the worker does; use `logged` to assert that it has a line. */
  log(): string;
  /** Waits until its log matches. */
  logged(pattern: RegExp): Promise<void>;
  kill(signal: NodeJS.Signals): void;
  /** Its exit code, or the signal that ended it. Its log is complete then. */
  readonly ended: Promise<number | NodeJS.Signals | null>;
}

/**
 * A whole installation of real parts: Redis, an S3 server behind a proxy that injects faults, a store, and any number of
 * worker processes.
 */
export interface Stage extends AsyncDisposable {
  readonly redis: LocalRedis;
  readonly bucket: TestBucket;
  readonly proxy: FaultyProxy;
  readonly queue: UnpackQueue;
  readonly root: string;
  worker(env?: Readonly<Record<string, string>>): Promise<WorkerProcess>;
  /** Stores images under `prefix` in the layout `oci`, without the blobs in `without`. */
  push(prefix: string, images: Readonly<Record<string, TestImage>>, without?: readonly string[]): Promise<void>;
  payload(prefix: string, tag?: string): Payload;
  /** The trees of the committed snapshots' own layers, by name. */
  stored(): Promise<StoreTrees>;
  /** The names of the lock files of layers in ROOT/locks, which a worker makes with its first job. */
  locks(): string[];
  /** Fails unless the store holds exactly these snapshots and no other directories. */
  assertClean(names: readonly string[]): Promise<void>;
}

export interface StageOptions {
  readonly type?: 'overlay' | 'native';
  readonly persistent?: boolean;
  /** The directory of the store; default: one that is removed at the end. */
  readonly root?: string;
}

export async function stage(options: StageOptions = {}): Promise<Stage> {
  const stack = new AsyncDisposableStack();
  try {
    const redis = await startRedis({ persistent: options.persistent ?? false });
    stack.defer(() => redis.stop());
    const bucket = await startTestBucket();
    stack.defer(() => bucket.close());
    const proxy = await startFaultyProxy({ target: bucket.server.endpoint });
    stack.defer(() => proxy.close());
    const root = options.root ?? (await mkdtemp(join(tmpdir(), 'unpackd-e2e-')));
    if (options.root === undefined) stack.defer(() => rmSync(root, { recursive: true, force: true }));
    const type = options.type ?? 'overlay';
    const settings = {
      REDIS_URL: redis.url,
      S3_ENDPOINT: proxy.endpoint,
      AWS_REGION: bucket.server.region,
      UNPACK_ROOT: root,
      UNPACK_SNAPSHOTTER: type,
      UNPACK_LOCK: '30s',
      UNPACK_BACKOFF: '100ms',
      UNPACK_LOG_FORMAT: 'json',
      UNPACK_DURABLE: 'false',
    };
    const queue = new UnpackQueue(loadConfig(settings, {}));
    stack.defer(() => queue.close());

    const worker = async (env: Readonly<Record<string, string>> = {}): Promise<WorkerProcess> => {
      const started = startWorker({
        ...settings,
        AWS_ACCESS_KEY_ID: bucket.server.accessKeyId,
        AWS_SECRET_ACCESS_KEY: bucket.server.secretAccessKey,
        ...env,
      });
      stack.defer(() => endChild(started.child));
      await started.logged(/ready: takes jobs/);
      return started;
    };

    const push = async (
      prefix: string,
      images: Readonly<Record<string, TestImage>>,
      without: readonly string[] = [],
    ) => {
      for (const [path, bytes] of layoutFiles(images)) {
        if (!without.some((digest) => path.endsWith(digest.slice('sha256:'.length)))) {
          await bucket.put(`${prefix}/${path}`, bytes);
        }
      }
    };

    const stored = async (): Promise<StoreTrees> => {
      const snapshotter = await openSnapshotter({ root, type, durable: false });
      try {
        return await treesOf(snapshotter);
      } finally {
        await snapshotter.close();
      }
    };

    const assertClean = async (names: readonly string[]): Promise<void> => {
      const snapshotter = await openSnapshotter({ root, type, durable: false });
      try {
        const all = async () => (await snapshotter.walk()).map(({ name }) => name).sort();
        const wanted = [...names].sort();
        // a living worker that tries its disk has a snapshot for that, and removes it
        await until(async () => isDeepStrictEqual(await all(), wanted)).catch(() => {});
        assert.deepEqual(await all(), wanted);
        // a worker may still delete a renamed directory after its job has failed
        const folders = () => readdirSync(join(root, 'snapshots')).filter((name) => name !== 'store.json');
        await until(() => folders().length <= names.length, PATIENCE, folders);
        assert.equal(folders().length, names.length, 'no directories are left, without a cleanup');
        assert.equal(await snapshotter.cleanup(), 0);
      } finally {
        await snapshotter.close();
      }
    };

    const payload = (prefix: string, tag = 'app'): Payload => ({
      version: 1,
      image: `registry.example/${prefix}:${tag}`,
      source: { bucket: BUCKET, prefix, layout: 'oci' },
      tag,
    });
    return {
      redis,
      bucket,
      proxy,
      queue,
      root,
      worker,
      push,
      payload,
      stored,
      locks: () => namesIn(join(root, 'locks')).filter((name) => name.startsWith('sha')),
      assertClean,
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

function startWorker(settings: Readonly<Record<string, string>>): WorkerProcess {
  const child = startChild(process.execPath, [WORKER], {
    env: { PATH: process.env.PATH ?? '', ...settings },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      log += text;
    });
  }
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) => {
    child.once('close', (code, signal) => resolve(signal ?? code));
  });
  return {
    child,
    log: () => log,
    logged: (pattern) =>
      until(
        () => pattern.test(log),
        PATIENCE,
        () => `${pattern}\n${log}`,
      ),
    kill: (signal) => child.kill(signal),
    ended,
  };
}

/** The names in a directory; none if there is no such directory yet. */
const namesIn = (path: string): string[] => (existsSync(path) ? readdirSync(path) : []);

/** Waits until a condition is true; fails with the current state if it does not become true. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  limit = PATIENCE,
  known: () => unknown = () => '',
): Promise<void> {
  const end = Date.now() + limit;
  while (!(await condition())) {
    if (Date.now() > end) assert.fail(`it did not become true within ${limit} ms: ${condition}\n${known()}`);
    await sleep(20);
  }
}

/** An image of `count` layers that hold `files` files of `size` random bytes each; names differ by `seed`. */
export function someImage(seed: string, count: number, files = 20, size = 2000): TestImage {
  return imageOf(Array.from({ length: count }, (_, index) => someLayer(`${seed}-${index}`, files, size)));
}

export function someLayer(name: string, files = 20, size = 2000): TestLayer {
  const members: Member[] = [directory(name, { mode: 0o750, mtime: 1000 })];
  for (let i = 0; i < files; i++) members.push(file(`${name}/${i}`, randomBytes(size), { uid: i, mtime: 2000 + i }));
  // does not name the directory that the layer below has made
  members.push(file(`shared/${name}`, name));
  return layerOf(tar(...members));
}

/** The names of an image's snapshots, bottom-most first. */
export const chainOf = (image: TestImage): string[] => chainIds(image.layers.map((layer) => layer.diff.digest));
