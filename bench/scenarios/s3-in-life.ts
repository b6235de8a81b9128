import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { onPath, run } from '../commands.ts';
import { randomFile } from '../images/generated-layers.ts';
import { type Contestant, type Entrant, Unavailable } from '../peers/contestant.ts';
import { unpackd } from '../peers/unpackd.ts';
import { unpackdWorker } from '../peers/unpackd-worker.ts';
import { folderFor, race } from '../race.ts';
import {
  type BucketStatistics,
  bucketEnvironment,
  bucketStatistics,
  type ServerProcess,
  startBucket,
  type Throttle,
} from '../servers/server-process.ts';
import { median } from '../statistics.ts';
import { memoryBelow, timesAsFast } from './goals.ts';
import { type Scenario, type ScenarioResult, type Stage, workOf } from './scenario.ts';

const BUCKET = 'images';

/** A bucket, and how many times as fast as one connection unpackd must be with it. */
interface BucketInLife {
  readonly name: string;
  readonly throttle: Throttle;
  readonly says: string;
  readonly times: number;
}

/** One large blob from a bucket that answers slowly and limits each connection. */
export const s3Scenarios: readonly Scenario[] = (
  [
    {
      name: 's3-in-life',
      // about as fast as a bucket in the same region
      throttle: { firstByteMs: 20, bytesPerSecond: 60e6 },
      says: '20 ms to the first byte, 60 MB/s a connection',
      times: 6,
    },
    {
      name: 's3-slow-ranges',
      throttle: { firstByteMs: 20, bytesPerSecond: 140e6, rangeMs: 1000 },
      says: 'a second before each range, 140 MB/s a connection',
      // one request takes 1 / 1.2 of our time at least
      times: 0.83,
    },
  ] satisfies BucketInLife[]
).map(bucketScenario);

function bucketScenario({ name, throttle, says, times }: BucketInLife): Scenario {
  return { name, minutes: [3, 0.3], run: (stage) => raceFor(stage) };

  async function raceFor(stage: Stage): Promise<ScenarioResult> {
    // large enough that the start of the process and the first requests take only a small part of the time
    const megabytes = stage.quick ? 240 : 1024;
    const image = await stage.images.generated(`random-${megabytes}`, 'zstd', () => [randomFile(megabytes << 20)]);
    const buckets = join(await folderFor(stage.folder, 'bucket'), 'buckets');
    await mkdir(buckets);
    await symlink(image.folder, join(buckets, BUCKET));
    const s3 = await startBucket(buckets, throttle);
    const asked: Record<string, BucketStatistics> = {};
    const counted = (entrant: Entrant): Entrant => counting(entrant, s3, asked);
    try {
      const layer = image.layers[0]?.digest.replace(':', '/') ?? '';
      const url = `http://${s3.address}/${BUCKET}/blobs/${layer}`;
      const result = await race(
        [
          counted(oneConnection(url, s3)),
          counted(eightConnections(url, image.layers[0]?.size ?? 0, s3)),
          counted(
            unpackd(
              stage.build,
              { image, folder: await folderFor(stage.folder, 'unpackd') },
              {
                source: `s3://${BUCKET}:${image.tag}`,
                env: bucketEnvironment(s3),
                servers: [s3.pid],
              },
            ),
          ),
          counted(
            unpackdWorker(stage.build, {
              folder: await folderFor(stage.folder, 'worker'),
              payload: {
                version: 1,
                image: 'registry.example/random:app',
                source: { bucket: BUCKET, layout: 'oci' },
                tag: image.tag,
              },
              settings: { ...bucketEnvironment(s3), UNPACK_DURABLE: 'false' },
              servers: [s3.pid],
            }),
          ),
        ],
        stage.raceOptions(),
      );
      return {
        ...result,
        name,
        title: `one layer of ${megabytes} MiB from a bucket: ${says}`,
        work: workOf(image),
        reference: 'one connection',
        goals: [
          timesAsFast(result, 'unpackd', 'one connection', times),
          timesAsFast(result, 'unpackd, worker', 'one connection', times),
          memoryBelow(result, 'unpackd', 400e6),
          memoryBelow(result, 'unpackd, worker', 400e6),
        ],
        notes: [
          'The blob is one file of random bytes, so decompression takes little time and the download is measured.',
          ...result.rows.map(({ name, samples }) => {
            const { requests = 0, mostAtOnce = 0 } = asked[name] ?? {};
            const server = median(samples.map(({ serverCpuSeconds }) => serverCpuSeconds)).toFixed(2);
            return `${name}: ${requests} requests, ${mostAtOnce} answers at once; the server took ${server} s of a processor.`;
          }),
        ],
      };
    } finally {
      s3.stop();
    }
  }
}

/** A plain GET of the blob over one connection. */
function oneConnection(url: string, s3: ServerProcess): Entrant {
  return {
    name: 'one connection',
    how: 'one GET of the blob, nothing done with it',
    enter: async () => ({
      standing: { workers: [], servers: [s3.pid] },
      async run() {
        const response = await fetch(url);
        for await (const _ of response.body ?? []);
        return undefined;
      },
    }),
  };
}

/** Eight ranges at once with curl: the most that this machine can transfer. */
function eightConnections(url: string, size: number, s3: ServerProcess): Entrant {
  const part = Math.ceil(size / 8);
  const ranges = Array.from({ length: 8 }, (_, index) => [index * part, Math.min((index + 1) * part, size) - 1]);
  const transfers = ranges.flatMap(([from, to]) => ['--output', '/dev/null', '--range', `${from}-${to}`, url]);
  return {
    name: 'eight connections',
    how: 'curl, an eighth of the blob over each, nothing done with it',
    async enter() {
      if (!onPath('curl')) throw new Unavailable('curl is not installed');
      return {
        standing: { workers: [], servers: [s3.pid] },
        async run() {
          await run('curl', ['--silent', '--fail', '--parallel', '--parallel-immediate', ...transfers]);
          return undefined;
        },
      };
    },
  };
}

/** Keeps the statistics of the bucket for the last run of each program. */
function counting(entrant: Entrant, s3: ServerProcess, asked: Record<string, BucketStatistics>): Entrant {
  return {
    ...entrant,
    async enter(): Promise<Contestant> {
      const contestant = await entrant.enter();
      return {
        ...contestant,
        async prepare() {
          await contestant.prepare?.();
          await bucketStatistics(s3);
        },
        async reset() {
          asked[entrant.name] = await bucketStatistics(s3);
          await contestant.reset?.();
        },
      };
    },
  };
}
