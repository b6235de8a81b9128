import { mkdir } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { Payload } from '../../src/queue/payload-schema.ts';
import type { UnpackResult } from '../../src/queue/result.ts';
import { REPOSITORY, writeRegistryFiles } from '../images/registry-files.ts';
import { containerdPull, unpacksInParallel } from '../peers/containerd.ts';
import { findContainerd } from '../peers/containerd-daemon.ts';
import { type Entrant, Unavailable } from '../peers/contestant.ts';
import { unpackd } from '../peers/unpackd.ts';
import { unpackdWorker } from '../peers/unpackd-worker.ts';
import { folderFor, race } from '../race.ts';
import { bucketEnvironment, type ServerProcess, startBucket, startRegistry } from '../servers/server-process.ts';
import { median } from '../statistics.ts';
import { timesAsFast } from './goals.ts';
import { type GoalResult, type Scenario, type Stage, workOf } from './scenario.ts';

const BUCKET = 'images';

/** The real image over HTTP: unpackd from S3, containerd from a registry. Both serve the same files. */
export const pullScenario: Scenario = {
  name: 'pull',
  minutes: [2.5, 0.5],
  async run(stage) {
    const image = await stage.images.real('gzip');
    const files = await folderFor(stage.folder, 'registry');
    const buckets = join(files, 'buckets');
    const bucket = join(buckets, BUCKET);
    await mkdir(bucket, { recursive: true });
    await writeRegistryFiles(image, bucket);
    const s3 = await startBucket(buckets);
    let registry: ServerProcess | undefined;
    let why = '';
    let timeline: UnpackResult | undefined;
    try {
      registry = await startRegistry(bucket, files);
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
      why = error.message;
    }
    try {
      const task = async (name: string) => ({ image, folder: await folderFor(stage.folder, name) });
      const payload: Payload = {
        version: 1,
        image: `registry.example/${REPOSITORY}:${image.tag}`,
        source: { bucket: BUCKET, layout: 'distribution', repository: REPOSITORY },
        tag: image.tag,
      };
      const result = await race(
        [
          unpackd(stage.build, await task('unpackd'), {
            source: `s3://${BUCKET}:${image.tag}`,
            flags: ['--layout', 'distribution', '--repository', REPOSITORY],
            env: bucketEnvironment(s3),
            servers: [s3.pid],
          }),
          unpackdWorker(stage.build, {
            folder: await folderFor(stage.folder, 'worker'),
            payload,
            settings: { ...bucketEnvironment(s3), UNPACK_DURABLE: 'false' },
            servers: [s3.pid],
            onResult: (one) => {
              timeline = one;
            },
          }),
          ...(await containerds(stage, registry, why, image.tag, task)),
        ],
        stage.raceOptions(),
      );
      const goals: GoalResult[] = ['unpackd', 'unpackd, worker'].flatMap((name) => [
        ...pullGoals(result.rows.map((row) => row.name)).map(([theirs, times]) =>
          timesAsFast(result, name, theirs, times, { exact: true }),
        ),
      ]);
      return {
        ...result,
        name: 'pull',
        title: `${image.layers.length} layers, gzip, over HTTP on loopback, in memory`,
        work: workOf(image),
        reference: 'unpackd',
        goals,
        notes: [
          `CPU seconds of the servers: ${result.rows
            .map(({ name, samples }) => `${median(samples.map((one) => one.serverCpuSeconds)).toFixed(2)} for ${name}`)
            .join(', ')}.`,
        ],
        ...(timeline === undefined ? {} : { timeline }),
      };
    } finally {
      s3.stop();
      registry?.stop();
    }
  },
};

/** Each containerd with one layer at a time. Those that can also run with several layers at once. */
async function containerds(
  stage: Stage,
  registry: ServerProcess | undefined,
  why: string,
  tag: string,
  task: (name: string) => Promise<{ image: Awaited<ReturnType<Stage['images']['real']>>; folder: string }>,
): Promise<Entrant[]> {
  if (registry === undefined) return [absent('containerd', why)];
  const options = { reference: `${registry.address}/${REPOSITORY}:${tag}`, servers: [registry.pid] };
  const entrants: Entrant[] = [];
  let parallel = false;
  for (const [index, programs] of [undefined, ...stage.containerds].entries()) {
    entrants.push(containerdPull(await task(`containerd-${index}`), { ...options, programs }));
    if (!canUnpackInParallel(programs)) continue;
    parallel = true;
    const folder = await task(`containerd-${index}-parallel`);
    entrants.push(containerdPull(folder, { ...options, programs, parallel: Math.max(4, availableParallelism()) }));
  }
  if (!parallel)
    entrants.push(absent('containerd with parallel unpacking', 'needs containerd 2.2 or later: --containerd DIR'));
  return entrants;
}

function canUnpackInParallel(folder: string | undefined): boolean {
  try {
    return unpacksInParallel(findContainerd(folder));
  } catch {
    return false;
  }
}

function absent(name: string, reason: string): Entrant {
  return {
    name,
    how: '',
    enter: async () => {
      throw new Unavailable(reason);
    },
  };
}

/** 1.5 times as fast as those that unpack several layers at once, 2.4 times as fast as the others. */
function pullGoals(names: readonly string[]): [string, number][] {
  const peers = names.filter((name) => name.startsWith('containerd'));
  return peers.map((name) => [name, name.includes('at once') ? 1.5 : 2.4]);
}
