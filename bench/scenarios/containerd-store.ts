import { nameOf } from '../peers/containerd.ts';
import type { Entrant } from '../peers/contestant.ts';
import { unpackdWorker } from '../peers/unpackd-worker.ts';
import { containerdStore } from '../peers/worker-store.ts';
import { folderFor, type RaceResult, race } from '../race.ts';
import { payloadOf, startImageServers } from '../servers/image-servers.ts';
import { bucketEnvironment } from '../servers/server-process.ts';
import { medianRatio } from '../statistics.ts';
import { pullEntrants } from './containerd-pulls.ts';
import { rowOf, timesAsFast } from './goals.ts';
import { type GoalResult, type Scenario, workOf } from './scenario.ts';

const OWN = 'unpackd, worker, own store';
/** A worker with UNPACK_SNAPSHOTTER=containerd. */
const within = (containerd: string) => `unpackd, worker, in ${containerd}`;

/** How many times as long a job may take with containerd's store as with our own. */
const MOST_OF_OWN = 1.05;
/** How many times as fast as a pull a job must be: a pull that unpacks one layer at a time, or several. */
const AS_FAST = { one: 2.8, several: 2 };

/**
 * The real image over HTTP into containerd's overlayfs, from S3 until it is recorded and a container can start: against a pull
 * by the same containerd from a registry, and against a store of our own.
 */
export const containerdStoreScenario: Scenario = {
  name: 'containerd-store',
  minutes: [3, 0.7],
  async run(stage) {
    const image = await stage.images.real('gzip');
    const servers = await startImageServers(image, await folderFor(stage.folder, 'registry'));
    try {
      const options = {
        payload: payloadOf(image, servers),
        settings: { ...bucketEnvironment(servers.s3), UNPACK_DURABLE: 'false' },
        servers: [servers.s3.pid],
      };
      const own = unpackdWorker(stage.build, { ...options, folder: await folderFor(stage.folder, 'own') }, OWN);
      const names = [undefined, ...stage.containerds].map((programs) => nameOf(programs));
      const inContainerd: Entrant[] = [];
      for (const [index, programs] of [undefined, ...stage.containerds].entries()) {
        const folder = await folderFor(stage.folder, `within-${index}`);
        const store = (directory: string) => containerdStore(directory, programs);
        inContainerd.push(unpackdWorker(stage.build, { ...options, folder, store }, within(nameOf(programs))));
      }
      const pulls = await pullEntrants(stage, image, servers);
      const result = await race([own, ...inContainerd, ...pulls], stage.raceOptions());
      return {
        ...result,
        name: 'containerd-store',
        title: `${image.layers.length} layers, gzip, over HTTP on loopback, recorded in containerd, in memory`,
        work: workOf(image),
        reference: OWN,
        goals: [...new Set(names)].flatMap((name) => goalsOf(result, name)),
      };
    } finally {
      servers.stop();
    }
  },
};

function goalsOf(result: RaceResult, containerd: string): GoalResult[] {
  const ours = within(containerd);
  const pulls = result.rows.map(({ name }) => name).filter((name) => name.startsWith(containerd));
  return [
    ...pulls.map((pull) =>
      timesAsFast(result, ours, pull, pull.includes('at once') ? AS_FAST.several : AS_FAST.one, { exact: true }),
    ),
    ...againstOwn(result, ours),
  ];
}

function againstOwn(result: RaceResult, ours: string): GoalResult[] {
  const goal = `${ours}: at most ${Math.round((MOST_OF_OWN - 1) * 100)} % slower than ${OWN}`;
  const [mine, own] = [ours, OWN].map((name) => rowOf(result, name)?.samples.map(({ seconds }) => seconds));
  if (mine === undefined || own === undefined) return [{ goal, measured: 'one of both did not run', met: undefined }];
  const ratio = medianRatio(mine, own);
  return [{ goal, measured: `${ratio.toFixed(3)} times as long`, met: ratio <= MOST_OF_OWN }];
}
