import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { startWorker } from '../../dev/worker-process.ts';
import type { Payload, UnpackResult } from '../../src/queue/formats.ts';
import type { Contestant, Entrant } from '../peers/contestant.ts';
import { jobRounds, type KnownImage, knownImage, knownImageWorker, LAYERS } from '../peers/known-image-jobs.ts';
import { folderFor, type RaceResult, race } from '../race.ts';
import { median, medianRatio } from '../statistics.ts';
import { rowOf } from './goals.ts';
import type { GoalResult, Scenario } from './scenario.ts';

/** Shares of the jobs per second of an empty processor. For a tag it is lower, because each job must look the tag up. */
const GOALS: Readonly<Record<string, number>> = { digest: 0.8, layers: 0.8, tag: 0.6 };

/** Jobs for an image that the store already has. This measures the queue, and for a tag one read from the bucket. */
export const knownImagesScenario: Scenario = {
  name: 'known-images',
  minutes: [2, 0.5],
  async run(stage) {
    const known = await knownImage(stage);
    const { count, jobs } = known;
    try {
      const entrants: Entrant[] = [];
      for (const [kind, job] of Object.entries(jobs)) {
        const results = Promise.withResolvers<UnpackResult>();
        results.promise.catch(() => {}); // the entrant that awaits it reports the error
        const worker = knownImageWorker(known, {
          name: ours(kind),
          how: 'a worker process with the default settings that has unpacked the image before',
          program: stage.build.worker,
          folder: await folderFor(stage.folder, `worker-${kind}`),
          job,
          onResult: results.resolve,
          onFailure: results.reject,
        });
        entrants.push(worker, emptyWorker(known, kind, job, results.promise));
      }
      const result = await race(entrants, stage.raceOptions());
      return {
        ...result,
        name: 'known-images',
        title: `${count.toLocaleString('en-US')} jobs for an image of ${LAYERS} layers that the store already has`,
        reference: ours('digest'),
        goals: Object.keys(jobs).map((kind) => goalOf(result, kind, count)),
        notes: [
          'The jobs wait in a paused queue. The time is from its resumption to the end of the last job. Both workers have ' +
            'the default settings, by the same code, and the same Redis with an append-only file. unpackd writes its log.',
          'A tag may have moved, so each job asks the bucket after it was taken; jobs that ask at the same time share a ' +
            'request. The bucket is on the same processors, in a server of the bench that takes about 36 µs for a request; ' +
            'an empty processor does not use it.',
        ],
      };
    } finally {
      await known.stop();
    }
  },
};

const ours = (kind: string): string => `unpackd, by ${kind}`;
const empty = (kind: string): string => `an empty BullMQ processor, by ${kind}`;

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

function emptyWorker({ redis, count }: KnownImage, kind: string, job: Payload, result: Promise<UnpackResult>): Entrant {
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
      return jobRounds(name, job, redis, { count, pids: [worker.pid, redis.pid], servers: [], end });
    },
  };
}
