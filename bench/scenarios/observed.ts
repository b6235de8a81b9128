import { join } from 'node:path';
import type { Entrant } from '../peers/contestant.ts';
import { knownImage, knownImageWorker, LAYERS } from '../peers/known-image-jobs.ts';
import { unpackdWorker } from '../peers/unpackd-worker.ts';
import { folderFor, race } from '../race.ts';
import { payloadOf, startImageServers } from '../servers/image-servers.ts';
import { collector, type Observer, scraper } from '../servers/observers.ts';
import { bucketEnvironment } from '../servers/server-process.ts';
import { type Scenario, type Stage, workOf } from './scenario.ts';

/**
 * What metrics and traces cost, and what they cost when they are off: workers that differ only in that, with the shortest jobs
 * and with a real image. `off` takes part twice, so that the difference of both shows how exact the figures are.
 */
export const observedScenarios: readonly Scenario[] = [
  {
    name: 'observed-jobs',
    minutes: [2.5, 0.5],
    async run(stage) {
      const known = await knownImage(stage);
      try {
        return await raceOfWorkers(stage, 'observed-jobs', {
          title: `${known.count.toLocaleString('en-US')} jobs for an image of ${LAYERS} layers that the store already has`,
          entrant: ({ name, how, program, folder, settings }) =>
            knownImageWorker(known, { name, how, program, folder, settings, job: known.jobs.digest }),
        });
      } finally {
        await known.stop();
      }
    },
  },
  {
    name: 'observed-image',
    minutes: [2.5, 0.5],
    async run(stage) {
      const image = await stage.images.real('gzip');
      const servers = await startImageServers(image, await folderFor(stage.folder, 'registry'));
      const { s3 } = servers;
      try {
        const result = await raceOfWorkers(stage, 'observed-image', {
          title: `a worker unpacks ${image.layers.length} layers from S3, in memory`,
          entrant: ({ name, program, folder, settings }) =>
            unpackdWorker(
              { ...stage.build, worker: program },
              {
                folder,
                payload: payloadOf(image, servers),
                settings: { ...bucketEnvironment(s3), UNPACK_DURABLE: 'false', ...settings },
                servers: [s3.pid],
              },
              name,
            ),
        });
        return { ...result, work: workOf(image) };
      } finally {
        servers.stop();
      }
    },
  },
];

interface ObservedWorker {
  readonly name: string;
  readonly how: string;
  readonly program: string;
  /** An empty folder. */
  readonly folder: string;
  readonly settings: Readonly<Record<string, string>>;
}

interface Workers {
  readonly title: string;
  readonly entrant: (worker: ObservedWorker) => Entrant;
}

async function raceOfWorkers(stage: Stage, name: string, { title, entrant }: Workers) {
  const { build, otherCheckouts } = stage;
  const observers: Observer[] = [];
  const worker = async (who: string, how: string, program: string, observer?: Observer): Promise<Entrant> => {
    if (observer !== undefined) observers.push(observer);
    const folder = await folderFor(stage.folder, who);
    return entrant({ name: who, how, program, folder, settings: observer?.settings ?? {} });
  };
  try {
    const entrants = [
      await worker('off', 'neither metrics nor traces', build.worker),
      ...(await Promise.all(
        otherCheckouts.map((checkout) => {
          return worker(`off, ${checkout}`, 'another commit', join(checkout, 'workers/unpack.ts'));
        }),
      )),
      await worker('metrics', 'a health port, which is scraped every second', build.worker, await scraper()),
      await worker('traces', 'all spans go to a collector on the same processors', build.worker, await collector()),
      await worker('off again', 'neither metrics nor traces', build.worker),
    ];
    const result = await race(entrants, stage.raceOptions());
    return {
      ...result,
      name,
      title: `${title}, with and without metrics and traces`,
      reference: 'off',
      goals: [],
      notes: [`The observers got ${observers.map(({ arrived }) => arrived()).join(', and ')}.`],
    };
  } finally {
    for (const observer of observers) observer.stop();
  }
}
