import { containerd } from '../peers/containerd.ts';
import { disk } from '../peers/disk.ts';
import { unpackd } from '../peers/unpackd.ts';
import { residentUnpackd } from '../peers/unpackd-resident.ts';
import { folderFor, race } from '../race.ts';
import { timesAsFast } from './goals.ts';
import { newestContainerd, type Scenario, workOf } from './scenario.ts';

/** What the disk's own write time may be passed by. */
const OVERHEAD = 1.15;

/** The real image onto a disk: left to the page cache, and written through. */
export const diskScenario: Scenario = {
  name: 'disk',
  minutes: [4, 0],
  async run(stage) {
    const image = await stage.gallery.real('gzip');
    const programs = newestContainerd(stage);
    const task = async (name: string) => ({ image, folder: await folderFor(stage.diskFolder, name) });
    const result = await race(
      [
        unpackd(stage.build, await task('durable'), { durable: true }, 'unpackd, durable'),
        residentUnpackd(stage.build, await task('resident'), { durable: true }, 'unpackd, durable, resident'),
        containerd(await task('containerd-synced'), { programs, sync: true }),
        disk(await folderFor(stage.diskFolder, 'disk'), image.tarBytes),
        unpackd(stage.build, await task('unpackd')),
        containerd(await task('containerd'), { programs }),
      ],
      stage.raceOptions({ settleDisk: true }),
    );
    const peers = result.rows.map(({ name }) => name).filter((name) => name.startsWith('containerd'));
    return {
      ...result,
      name: 'disk',
      title: `${image.layers.length} layers, gzip, onto the disk`,
      work: workOf(image),
      reference: 'unpackd, durable',
      goals: [
        timesAsFast(result, 'unpackd, durable', 'the disk', Math.round(100 / OVERHEAD) / 100),
        timesAsFast(result, 'unpackd, durable, resident', 'the disk', Math.round(100 / OVERHEAD) / 100),
        ...peers.map((name) => {
          const ours = name.endsWith('synced') ? 'unpackd, durable' : 'unpackd';
          return timesAsFast(result, ours, name, 1, { exact: true });
        }),
      ],
      notes: [
        'Durable: unpackd and containerd 2 (--sync-fs) sync the file system for each layer; containerd 1 can’t and gets one syncfs at the end.',
      ],
    };
  },
};
