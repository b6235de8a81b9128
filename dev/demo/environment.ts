import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Config, loadConfig } from '../../src/config.ts';
import { impatientConnection } from '../../src/queue/connection.ts';
import { displayRedisUrl } from '../../src/redis-address.ts';
import type { RedisSettings } from '../../src/redis-settings.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { fileSystemFacts, overlayFacts } from '../../src/system/filesystem.ts';
import { removeTree } from '../../src/system/remove-tree.ts';
import { ensureRedisInstalled, findRedis, startRedis } from '../redis-server.ts';
import { startS3Server } from '../s3/server.ts';
import { startWorker, type WorkerProcess } from '../worker-process.ts';

/** What the demo runs in: a folder, Redis, an S3 server with one bucket, and a worker process. */
export interface Environment {
  readonly config: Config;
  readonly folder: string;
  readonly worker: WorkerProcess;
  /** Starts another worker, with other settings, which can use the same servers. */
  startWorker(settings: Readonly<Record<string, string>>): { readonly config: Config; readonly worker: WorkerProcess };
  /** Variables that an S3 client reads. */
  readonly credentials: Readonly<Record<string, string>>;
  /** Why the store is a native one; absent for an overlay store. */
  readonly whyNative?: string;
}

/** Registers a function that stops or removes a thing when the demo finishes. */
export type Own = <T>(thing: T, end: (thing: T) => Promise<unknown>) => T;

/** @throws Error with a sentence for the user if a server cannot be started */
export async function startEnvironment(packageRoot: string, bucket: string, own: Own): Promise<Environment> {
  const { snapshotter, whyNative, ...place } = await makeFolder(packageRoot);
  const folder = own(place.folder, removeTree);
  const s3 = own(await startS3Server({ buckets: [bucket] }), (server) => server.close());
  const redisFolder = join(folder, 'redis');
  await mkdir(redisFolder);
  const redis = own(await startOrBorrowRedis(redisFolder), (server) => server.stop());
  const credentials = { AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey };
  Object.assign(process.env, credentials); // the S3 client of this process reads them there
  const settings = {
    REDIS_URL: redis.url,
    REDIS_PASSWORD_FILE: redis.passwordFile ?? '',
    UNPACK_REDIS_PREFIX: redis.prefix,
    S3_ENDPOINT: s3.endpoint,
    AWS_REGION: s3.region,
    UNPACK_ROOT: join(folder, 'store'),
    UNPACK_SNAPSHOTTER: snapshotter,
    UNPACK_OWNERSHIP: process.geteuid?.() === 0 ? 'keep' : 'squash',
    UNPACK_BUCKETS: bucket,
    UNPACK_BACKOFF: '300ms', // the default pause between two attempts is too long to watch
    UNPACK_GRACE: '2s',
    UNPACK_WORKER_NAME: 'demo-worker',
    UNPACK_LOG_FORMAT: 'json',
  };
  const program = join(packageRoot, 'workers/unpack.ts');
  const start = (others: Readonly<Record<string, string>>) => {
    const environment = { ...settings, ...others };
    const worker = own(startWorker(program, { ...environment, ...credentials }), (one) => one.stop());
    return { config: loadConfig(environment), worker };
  };
  return { ...start({}), startWorker: start, folder, credentials, ...(whyNative === undefined ? {} : { whyNative }) };
}

/**
 * Number of bytes that the image needs in its five forms: files, blobs of the layout, objects in the bucket, snapshots of the
 * store and of containerd.
 */
const NEEDED = 1.75 * 1024 ** 3;

/**
 * Makes a folder with enough space on which overlays can be mounted: a temporary folder, or a folder in the project. If
 * neither is suitable, the folder is temporary and the store is native.
 */
async function makeFolder(packageRoot: string): Promise<{
  readonly folder: string;
  readonly snapshotter: Snapshotter['type'];
  readonly whyNative?: string;
}> {
  let why: string | undefined;
  for (const parent of [tmpdir(), join(packageRoot, '.demo')]) {
    try {
      await mkdir(parent, { recursive: true });
      if ((await fileSystemFacts(parent)).freeBytes < NEEDED) continue;
      const { mountable, reason } = await overlayFacts(parent);
      if (mountable) return { folder: await mkdtemp(join(parent, 'unpackd-demo-')), snapshotter: 'overlay' };
      why ??= process.geteuid?.() === 0 ? reason : 'only root can mount an overlay';
    } catch (error) {
      why ??= error instanceof Error ? error.message : String(error);
    }
  }
  const folder = await mkdtemp(join(tmpdir(), 'unpackd-demo-'));
  return { folder, snapshotter: 'native', whyNative: why ?? 'there is little room' };
}

/** A Redis or Valkey server. Others possibly use the same server, so every key of the demo has the prefix. */
interface DemoRedis {
  readonly url: string;
  /** `REDIS_PASSWORD_FILE` */
  readonly passwordFile?: string | undefined;
  /** `UNPACK_REDIS_PREFIX` */
  readonly prefix: string;
  /** Stops the server if the demo started it. Otherwise removes the keys with the prefix from the server. */
  stop(): Promise<void>;
}

/** Starts a server. If none is installed and `REDIS_URL` is set, uses the server at `REDIS_URL`. */
async function startOrBorrowRedis(directory: string): Promise<DemoRedis> {
  if (process.env.REDIS_URL && findRedis() === undefined) return borrowRedis(loadConfig());
  await ensureRedisInstalled();
  return { prefix: 'bull', ...(await startRedis({ directory })) };
}

/** Time limit in milliseconds for the answer of a borrowed server. */
const BORROW_TIMEOUT = 5000;

/** Uses a running server under a new prefix. @throws Error with a sentence if it does not answer within 5 s */
async function borrowRedis(settings: RedisSettings): Promise<DemoRedis> {
  const prefix = `unpackd-demo-${randomBytes(4).toString('hex')}`;
  const connection = impatientConnection(settings, BORROW_TIMEOUT);
  try {
    await once(connection, 'ready', { signal: AbortSignal.timeout(BORROW_TIMEOUT) });
  } catch (error) {
    connection.disconnect();
    const { message = '', code } = error as NodeJS.ErrnoException; // a timeout, or an error of ioredis
    const why = message || code || 'it does not answer';
    throw new Error(
      `REDIS_URL is set, but ${displayRedisUrl(settings.REDIS_URL)} can't be used: ${why}; start it, or unset REDIS_URL`,
    );
  }
  connection.on('error', () => {}); // the connections of the queue report the same error
  return {
    url: settings.REDIS_URL,
    passwordFile: settings.REDIS_PASSWORD_FILE,
    prefix,
    async stop() {
      try {
        for await (const keys of connection.scanStream({ match: `${prefix}:*`, count: 1000 })) {
          if (keys.length > 0) await connection.unlink(keys);
        }
      } finally {
        connection.disconnect();
      }
    },
  };
}
