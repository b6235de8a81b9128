import { randomUUID } from 'node:crypto';
import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Queue } from 'bullmq';
import { type LocalRedis, startRedis } from '../../src/demo/redis-server.ts';
import { startWorker } from '../../src/demo/worker-process.ts';
import type { BenchImage } from '../images/bench-image.ts';
import { thinLayers } from '../images/made-up.ts';
import type { Contestant, Entrant } from '../peers/contestant.ts';
import { folderFor, race } from '../race.ts';
import { bucketEnvironment, type ServerProcess, startBucket } from '../servers/server-process.ts';
import { median } from '../statistics.ts';
import { rowOf } from './goals.ts';
import type { Scenario, Stage } from './scenario.ts';

const BUCKET = 'images';
const JOB_NAME = 'unpack';
const CONCURRENCY = 4;
const LAYERS = 4;
/** Jobs handed over in one go. */
const BULK = 500;
const GOAL = 0.8;
const PATIENCE = 120_000;

/** Jobs for an image that the store has: what is left is the queue's work and a look at the bucket and the store. */
export const knownImagesScenario: Scenario = {
  name: 'known-images',
  minutes: [2, 0.3],
  async run(stage) {
    const count = stage.quick ? 1000 : 4000;
    const image = await stage.gallery.madeUp(`thin-layers-${LAYERS}`, 'gzip', () => thinLayers(LAYERS));
    const buckets = join(await folderFor(stage.folder, 'bucket'), 'buckets');
    await mkdir(buckets);
    await symlink(image.folder, join(buckets, BUCKET));
    const s3 = await startBucket(buckets);
    const redis = await startRedis();
    try {
      const result = await race(
        [ourWorker(stage, image, s3, redis, count), emptyWorker(image, redis, count)],
        stage.raceOptions(),
      );
      const rate = (name: string) => count / median(rowOf(result, name)?.samples.map(({ seconds }) => seconds) ?? []);
      const [ours, theirs] = [rate(OURS), rate(EMPTY)];
      const goal = `jobs whose image is there: at least ${GOAL * 100} % of an empty processor’s jobs/s`;
      const measured = `${Math.round(ours)} of ${Math.round(theirs)} jobs/s, ${Math.round((ours / theirs) * 100)} %`;
      return {
        ...result,
        name: 'known-images',
        title: `${count.toLocaleString('en-US')} jobs for an image of ${LAYERS} layers that is there`,
        reference: OURS,
        goals: [{ goal, measured, met: ours >= GOAL * theirs }],
        notes: ['The jobs wait in a paused queue; the time is that from its resumption to the end of the last one.'],
      };
    } finally {
      s3.stop();
      await redis.stop();
    }
  },
};

const OURS = 'unpackd, worker';
const EMPTY = 'an empty BullMQ processor';

function ourWorker(stage: Stage, image: BenchImage, s3: ServerProcess, redis: LocalRedis, count: number): Entrant {
  return {
    name: OURS,
    how: 'a worker process with the default settings; the first job unpacked the image',
    async enter(): Promise<Contestant> {
      const name = `bench-${randomUUID()}`;
      const worker = startWorker(stage.build.worker, {
        ...bucketEnvironment(s3),
        REDIS_URL: redis.url,
        UNPACK_QUEUE: name,
        UNPACK_JOBS: String(CONCURRENCY),
        UNPACK_ROOT: join(await folderFor(stage.folder, 'worker'), 'store'),
        UNPACK_KEEP_COMPLETED: '100000',
        UNPACK_LOG_LEVEL: 'warn',
      });
      const end = () => worker.stop();
      return contestant(name, image, redis, { pids: [worker.pid, redis.pid], servers: [s3.pid], end }, count);
    },
  };
}

function emptyWorker(image: BenchImage, redis: LocalRedis, count: number): Entrant {
  return {
    name: EMPTY,
    how: 'the same queue settings and payload; the processor returns a result like ours at once',
    async enter(): Promise<Contestant> {
      const name = `bench-${randomUUID()}`;
      const program = join(import.meta.dirname, '..', 'peers', 'empty-worker.ts');
      const worker = startWorker(program, {
        BENCH_PORT: String(redis.port),
        BENCH_QUEUE: name,
        BENCH_CONCURRENCY: String(CONCURRENCY),
        BENCH_LAYERS: String(LAYERS),
      });
      const end = () => worker.stop();
      return contestant(name, image, redis, { pids: [worker.pid, redis.pid], servers: [], end }, count);
    },
  };
}

interface Parts {
  readonly pids: readonly number[];
  readonly servers: readonly number[];
  readonly end: () => Promise<void>;
}

function contestant(name: string, image: BenchImage, redis: LocalRedis, parts: Parts, count: number): Contestant {
  const queue = new Queue(name, { connection: { host: '127.0.0.1', port: redis.port } });
  queue.on('error', () => {});
  const payload = {
    version: 1,
    image: 'registry.example/bench/app:app',
    source: { bucket: BUCKET, layout: 'oci' },
    tag: image.tag,
  };
  return {
    standing: { workers: parts.pids, servers: parts.servers },
    async prepare() {
      await queue.pause();
      for (let left = count; left > 0; left -= BULK) {
        const bulk = Array.from({ length: Math.min(left, BULK) }, () => ({ name: JOB_NAME, data: payload }));
        await queue.addBulk(bulk);
      }
    },
    async run() {
      await queue.resume();
      await allCompleted(queue, count);
      return undefined;
    },
    reset: () => queue.obliterate({ force: true }),
    async close() {
      await queue.close();
      await parts.end();
    },
  };
}

/** @throws Error when jobs fail, or do not end */
async function allCompleted(queue: Queue, count: number): Promise<void> {
  const deadline = performance.now() + PATIENCE;
  for (;;) {
    const { completed = 0, failed = 0 } = await queue.getJobCounts('completed', 'failed');
    if (failed > 0) throw new Error(`${failed} jobs failed: ${(await queue.getFailed(0, 0))[0]?.failedReason}`);
    if (completed >= count) return;
    if (performance.now() > deadline) throw new Error(`${completed} of ${count} jobs ended in time`);
    await sleep(20);
  }
}
