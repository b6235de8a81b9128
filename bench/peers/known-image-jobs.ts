import { randomUUID } from 'node:crypto';
import { mkdir, readFile, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Queue } from 'bullmq';
import { type LocalRedis, startRedis } from '../../dev/redis-server.ts';
import { startWorker } from '../../dev/worker-process.ts';
import { loadConfig } from '../../src/config.ts';
import type { Payload, UnpackResult } from '../../src/queue/formats.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import type { BenchImage } from '../images/bench-image.ts';
import { thinLayers } from '../images/generated-layers.ts';
import { folderFor } from '../race.ts';
import type { Stage } from '../scenarios/scenario.ts';
import { bucketEnvironment, type ServerProcess, startBucket } from '../servers/server-process.ts';
import type { Contestant, Entrant } from './contestant.ts';

/** Workers that take thousands of jobs for one image, which their store already has. Two scenarios use it. */

const BUCKET = 'images';
/** Layers of the image. */
export const LAYERS = 4;
/** Jobs that are added in one call. */
const BULK = 500;
const PATIENCE = 120_000;
/** Rounds that do not count. Jobs are so short that V8 needs tens of thousands of them to compile the code. */
const WARM_UP = 2;

/** The image in a bucket, a Redis with an append-only file, and the jobs. */
export interface KnownImage {
  readonly s3: ServerProcess;
  readonly redis: LocalRedis;
  /** Jobs of a round. */
  readonly count: number;
  readonly jobs: Readonly<Record<'digest' | 'layers' | 'tag', Payload>>;
  stop(): Promise<void>;
}

export async function knownImage(stage: Stage): Promise<KnownImage> {
  const image = await stage.images.generated(`thin-layers-${LAYERS}`, 'gzip', () => thinLayers(LAYERS));
  const buckets = join(await folderFor(stage.folder, 'bucket'), 'buckets');
  await mkdir(buckets);
  await symlink(image.folder, join(buckets, BUCKET));
  const s3 = await startBucket(buckets);
  const redis = await startRedis({ directory: await folderFor(stage.folder, 'redis'), persistent: 'every-second' });
  return {
    s3,
    redis,
    count: stage.quick ? 2000 : 10_000,
    jobs: await jobsFor(image),
    async stop() {
      s3.stop();
      await redis.stop();
    },
  };
}

/** The three ways in which a job can name its image: manifest digest, layers, tag. */
async function jobsFor(image: BenchImage): Promise<KnownImage['jobs']> {
  // the benchmark has written these files
  const json = async (...path: string[]) => JSON.parse(await readFile(join(image.folder, ...path), 'utf8'));
  const blob = (digest: string) => json('blobs', ...digest.split(':'));
  const digest: string = (await json('index.json')).manifests[0].digest;
  const manifest: { config: { digest: string }; layers: { mediaType: string; digest: string; size: number }[] } =
    await blob(digest);
  const config: { rootfs: { diff_ids: string[] } } = await blob(manifest.config.digest);
  const layers = manifest.layers.map(({ mediaType, digest, size }, index) => ({
    diff: { digest: config.rootfs.diff_ids[index] ?? '' },
    blob: { mediaType, digest, size },
  }));
  const job = (target: Partial<Payload>): Payload => ({
    version: 1,
    image: 'registry.example/bench/app:app',
    source: { bucket: BUCKET, layout: 'oci' },
    ...target,
  });
  return { digest: job({ manifest: digest }), layers: job({ layers }), tag: job({ tag: image.tag }) };
}

export interface KnownImageWorker {
  readonly name: string;
  readonly how: string;
  /** The program of the worker, and an empty folder for its store. */
  readonly program: string;
  readonly folder: string;
  readonly job: Payload;
  /** More settings of the worker. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Called with the result of a job that found all layers in the store. */
  readonly onResult?: (result: UnpackResult) => void;
  readonly onFailure?: (error: unknown) => void;
}

/** A worker process that has unpacked the image before. Its settings are the defaults, but for `settings`. */
export function knownImageWorker({ s3, redis, count }: KnownImage, options: KnownImageWorker): Entrant {
  const { name, how, program, folder, job, onResult, onFailure } = options;
  return {
    name,
    how,
    async enter(): Promise<Contestant> {
      const settings = {
        ...bucketEnvironment(s3),
        REDIS_URL: redis.url,
        UNPACK_QUEUE: `bench-${randomUUID()}`,
        UNPACK_ROOT: join(folder, 'store'),
        UNPACK_WORKER_NAME: 'bench',
        ...options.settings,
      };
      const worker = startWorker(program, settings);
      const queue = new UnpackQueue(loadConfig(settings, {}));
      try {
        await Promise.race([queue.wait(await queue.add(job)), worker.failed]);
        onResult?.(await queue.wait(await queue.add(job)));
      } catch (error) {
        onFailure?.(error);
        throw error;
      } finally {
        await queue.close();
      }
      return jobRounds(settings.UNPACK_QUEUE, job, redis, {
        count,
        pids: [worker.pid, redis.pid],
        servers: [s3.pid],
        end: () => worker.stop(),
      });
    },
  };
}

/** The jobs of a round, and the processes that take part. */
export interface JobRounds {
  readonly count: number;
  readonly pids: readonly number[];
  readonly servers: readonly number[];
  readonly end: () => Promise<void>;
}

/** A contestant whose time is from the resumption of a queue with `count` jobs to the end of the last job. */
export function jobRounds(name: string, job: Payload, redis: LocalRedis, parts: JobRounds): Contestant {
  const { pids, servers, count, end } = parts;
  const { UNPACK_JOB: jobName } = loadConfig({}, {});
  const queue = new Queue(name, { connection: { host: '127.0.0.1', port: redis.port } });
  queue.on('error', () => {});
  const add = async (jobs: number) => {
    for (let left = jobs; left > 0; left -= BULK) {
      await queue.addBulk(Array.from({ length: Math.min(left, BULK) }, () => ({ name: jobName, data: job })));
    }
  };
  let warm = false;
  return {
    standing: { workers: pids, servers },
    async prepare() {
      if (!warm) {
        for (let times = 0; times < WARM_UP; times++) {
          await add(count);
          await allDone(queue);
        }
      }
      warm = true;
      await queue.pause();
      await add(count);
    },
    async run() {
      await queue.resume();
      await allDone(queue);
      return undefined;
    },
    reset: () => queue.obliterate({ force: true }),
    async close() {
      await queue.close();
      await end();
    },
  };
}

/** Waits until no job is left, because completed jobs are removed. @throws Error if a job fails or after two minutes */
async function allDone(queue: Queue): Promise<void> {
  const deadline = performance.now() + PATIENCE;
  for (;;) {
    const { failed = 0, ...left } = await queue.getJobCounts('waiting', 'active', 'delayed', 'failed');
    if (failed > 0) throw new Error(`${failed} jobs failed: ${(await queue.getFailed(0, 0))[0]?.failedReason}`);
    const count = Object.values(left).reduce((sum, one) => sum + one, 0);
    if (count === 0) return;
    if (performance.now() > deadline) throw new Error(`${count} jobs did not end in time`);
    await sleep(10);
  }
}
