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
import type { Contestant, Entrant } from '../peers/contestant.ts';
import { folderFor, type RaceResult, race } from '../race.ts';
import { bucketEnvironment, type ServerProcess, startBucket } from '../servers/server-process.ts';
import { median, medianRatio } from '../statistics.ts';
import { rowOf } from './goals.ts';
import type { GoalResult, Scenario, Stage } from './scenario.ts';

const BUCKET = 'images';
const LAYERS = 4;
/** Jobs that are added in one call. */
const BULK = 500;
/** Shares of the jobs per second of an empty processor. For a tag it is lower, because each job must look the tag up. */
const GOALS: Readonly<Record<string, number>> = { digest: 0.8, layers: 0.8, tag: 0.6 };
const PATIENCE = 120_000;
/** Rounds that do not count. Jobs are so short that V8 needs tens of thousands of them to compile the code. */
const WARM_UP = 2;

/** Jobs for an image that the store already has. This measures the queue, and for a tag one read from the bucket. */
export const knownImagesScenario: Scenario = {
  name: 'known-images',
  minutes: [2, 0.5],
  async run(stage) {
    const count = stage.quick ? 2000 : 10_000;
    const image = await stage.images.generated(`thin-layers-${LAYERS}`, 'gzip', () => thinLayers(LAYERS));
    const buckets = join(await folderFor(stage.folder, 'bucket'), 'buckets');
    await mkdir(buckets);
    await symlink(image.folder, join(buckets, BUCKET));
    const s3 = await startBucket(buckets);
    const directory = await folderFor(stage.folder, 'redis');
    const redis = await startRedis({ directory, persistent: 'every-second' });
    try {
      const targets = await targetsOf(image);
      const entrants = Object.entries(targets).flatMap(([kind, target]) => {
        const job: Payload = { version: 1, image: 'registry.example/bench/app:app', source: SOURCE, ...target };
        const results = Promise.withResolvers<UnpackResult>();
        results.promise.catch(() => {}); // the entrant that awaits it reports the error
        return [
          ourWorker(stage, kind, job, { s3, redis, count, onResult: results.resolve, onFailure: results.reject }),
          emptyWorker(kind, job, { redis, count, result: results.promise }),
        ];
      });
      const result = await race(entrants, stage.raceOptions());
      return {
        ...result,
        name: 'known-images',
        title: `${count.toLocaleString('en-US')} jobs for an image of ${LAYERS} layers that the store already has`,
        reference: ours('digest'),
        goals: Object.keys(targets).map((kind) => goalOf(result, kind, count)),
        notes: [
          'The jobs wait in a paused queue. The time is from its resumption to the end of the last job. Both workers have ' +
            'the default settings, by the same code, and the same Redis with an append-only file. unpackd writes its log.',
          'A tag may have moved, so each job asks the bucket after it was taken; jobs that ask at the same time share a ' +
            'request. The bucket is on the same processors, in a server of the bench that takes about 36 µs for a request; ' +
            'an empty processor does not use it.',
        ],
      };
    } finally {
      s3.stop();
      await redis.stop();
    }
  },
};

const SOURCE = { bucket: BUCKET, layout: 'oci' as const };

const ours = (kind: string): string => `unpackd, by ${kind}`;
const empty = (kind: string): string => `an empty BullMQ processor, by ${kind}`;

/** The three ways in which a job can name its image: manifest digest, layers, tag. */
async function targetsOf(image: BenchImage): Promise<Readonly<Record<string, Partial<Payload>>>> {
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
  return { digest: { manifest: digest }, layers: { layers }, tag: { tag: image.tag } };
}

/** The share is the median of the ratios of all rounds. The rates are medians too. */
function goalOf(result: RaceResult, kind: string, count: number): GoalResult {
  const least = GOALS[kind] ?? 1;
  const goal = `jobs whose image is there, by ${kind}: at least ${least * 100} % of an empty processor’s jobs/s`;
  const [mine, theirs] = [ours(kind), empty(kind)].map((name) =>
    rowOf(result, name)?.samples.map(({ seconds }) => seconds),
  );
  if (mine === undefined || theirs === undefined) return { goal, measured: 'one of both did not run', met: undefined };
  const share = medianRatio(theirs, mine);
  const [rate, full] = [mine, theirs].map((seconds) => Math.round(count / median(seconds)));
  return { goal, measured: `${rate} of ${full} jobs/s, ${Math.round(share * 100)} %`, met: share >= least };
}

interface OurParts {
  readonly s3: ServerProcess;
  readonly redis: LocalRedis;
  readonly count: number;
  /** Called with the result of a job that found all layers in the store. */
  readonly onResult: (result: UnpackResult) => void;
  readonly onFailure: (error: unknown) => void;
}

function ourWorker(stage: Stage, kind: string, job: Payload, parts: OurParts): Entrant {
  const { s3, redis, count } = parts;
  return {
    name: ours(kind),
    how: 'a worker process with the default settings that has unpacked the image before',
    async enter(): Promise<Contestant> {
      const settings = {
        ...bucketEnvironment(s3),
        REDIS_URL: redis.url,
        UNPACK_QUEUE: `bench-${randomUUID()}`,
        UNPACK_ROOT: join(await folderFor(stage.folder, `worker-${kind}`), 'store'),
        UNPACK_WORKER_NAME: 'bench',
      };
      const worker = startWorker(stage.build.worker, settings);
      const queue = new UnpackQueue(loadConfig(settings, {}));
      try {
        await Promise.race([queue.wait(await queue.add(job)), worker.failed]);
        parts.onResult(await queue.wait(await queue.add(job)));
      } catch (error) {
        parts.onFailure(error);
        throw error;
      } finally {
        await queue.close();
      }
      return contestant(settings.UNPACK_QUEUE, job, redis, {
        count,
        pids: [worker.pid, redis.pid],
        servers: [s3.pid],
        end: () => worker.stop(),
      });
    },
  };
}

interface EmptyParts {
  readonly redis: LocalRedis;
  readonly count: number;
  readonly result: Promise<UnpackResult>;
}

function emptyWorker(kind: string, job: Payload, { redis, count, result }: EmptyParts): Entrant {
  return {
    name: empty(kind),
    how: 'the same settings, by the same code, and the same payload; the processor returns our result at once',
    async enter(): Promise<Contestant> {
      const name = `bench-${randomUUID()}`;
      const worker = startWorker(join(import.meta.dirname, '..', 'peers', 'empty-worker.ts'), {
        REDIS_URL: redis.url,
        UNPACK_QUEUE: name,
        UNPACK_WORKER_NAME: 'bench',
        BENCH_RESULT: JSON.stringify(await result),
      });
      const end = () => worker.stop();
      return contestant(name, job, redis, { count, pids: [worker.pid, redis.pid], servers: [], end });
    },
  };
}

interface Parts {
  readonly count: number;
  readonly pids: readonly number[];
  readonly servers: readonly number[];
  readonly end: () => Promise<void>;
}

function contestant(name: string, job: Payload, redis: LocalRedis, parts: Parts): Contestant {
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
