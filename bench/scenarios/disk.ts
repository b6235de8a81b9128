import { join } from 'node:path';
import { containerd } from '../peers/containerd.ts';
import type { Entrant } from '../peers/contestant.ts';
import { disk } from '../peers/disk.ts';
import { LateRemoval } from '../peers/removal.ts';
import { unpackd } from '../peers/unpackd.ts';
import { residentUnpackd } from '../peers/unpackd-resident.ts';
import { folderFor, race } from '../race.ts';
import { timesAsFast } from './goals.ts';
import { newestContainerd, type Scenario, workOf } from './scenario.ts';

/** The most that unpacking may take, as a multiple of the write time of the disk. */
const OVERHEAD = 1.15;

/** The real image onto a disk: synced before each commit, or left in the page cache. */
export const diskScenarios: readonly Scenario[] = [diskScenario(true), diskScenario(false)];

function diskScenario(durable: boolean): Scenario {
  const name = durable ? 'disk-durable' : 'disk-cached';
  return {
    name,
    minutes: [durable ? 2.5 : 2, 0],
    async run(stage) {
      const image = await stage.images.real('gzip');
      const programs = newestContainerd(stage);
      const place = await folderFor(stage.diskFolder, name);
      const task = async (who: string) => ({ image, folder: await folderFor(place, who) });
      const removal = new LateRemoval(join(place, 'measured'));
      const entrants: Entrant[] = [
        unpackd(stage.build, await task('unpackd'), { durable, removal }),
        residentUnpackd(stage.build, await task('resident'), { durable, removal }),
        containerd(await task('containerd'), { programs, sync: durable, removal }),
        ...(durable ? [disk(await folderFor(place, 'disk'), image.tarBytes)] : []),
      ];
      const result = await race(entrants, stage.raceOptions({ settleDisk: true }));
      const ours = ['unpackd', 'unpackd, resident'];
      return {
        ...result,
        name,
        title: `${image.layers.length} layers, gzip, onto the disk, ${durable ? 'durable' : 'not synced'}`,
        work: workOf(image),
        reference: 'unpackd',
        goals: [
          ...(durable ? ours.map((one) => timesAsFast(result, one, 'the disk', Math.round(100 / OVERHEAD) / 100)) : []),
          ...ours.map((one) => timesAsFast(result, one, 'containerd', 1)),
        ],
        notes: [
          'Measured trees stay on the disk until the end, because ext4 creates files slowly after 40,000 were removed.',
          ...(durable
            ? [
                'unpackd and containerd 2 (--sync-fs) sync the file system for each layer; containerd 1 cannot, and one syncfs follows at the end.',
              ]
            : []),
        ],
      };
    },
  };
}
