import type { UnpackResult } from '../../src/queue/formats.ts';
import { REPOSITORY } from '../images/registry-files.ts';
import { unpackd } from '../peers/unpackd.ts';
import { unpackdWorker } from '../peers/unpackd-worker.ts';
import { folderFor, race } from '../race.ts';
import { payloadOf, startImageServers } from '../servers/image-servers.ts';
import { bucketEnvironment } from '../servers/server-process.ts';
import { median } from '../statistics.ts';
import { pullEntrants } from './containerd-pulls.ts';
import { timesAsFast } from './goals.ts';
import { type GoalResult, type Scenario, workOf } from './scenario.ts';

/** The real image over HTTP: unpackd from S3, containerd from a registry. Both serve the same files. */
export const pullScenario: Scenario = {
  name: 'pull',
  minutes: [2.5, 0.5],
  async run(stage) {
    const image = await stage.images.real('gzip');
    const servers = await startImageServers(image, await folderFor(stage.folder, 'registry'));
    const { s3, bucket } = servers;
    let timeline: UnpackResult | undefined;
    try {
      const task = async (name: string) => ({ image, folder: await folderFor(stage.folder, name) });
      const result = await race(
        [
          unpackd(stage.build, await task('unpackd'), {
            source: `s3://${bucket}:${image.tag}`,
            flags: ['--layout', 'distribution', '--repository', REPOSITORY],
            env: bucketEnvironment(s3),
            servers: [s3.pid],
          }),
          unpackdWorker(stage.build, {
            folder: await folderFor(stage.folder, 'worker'),
            payload: payloadOf(image, servers),
            settings: { ...bucketEnvironment(s3), UNPACK_DURABLE: 'false' },
            servers: [s3.pid],
            onResult: (one) => {
              timeline = one;
            },
          }),
          ...(await pullEntrants(stage, image, servers)),
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
      servers.stop();
    }
  },
};

/** 1.5 times as fast as those that unpack several layers at once, 2.4 times as fast as the others. */
function pullGoals(names: readonly string[]): [string, number][] {
  const peers = names.filter((name) => name.startsWith('containerd'));
  return peers.map((name) => [name, name.includes('at once') ? 1.5 : 2.4]);
}
