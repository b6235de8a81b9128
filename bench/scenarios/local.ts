import type { LayerCompression } from '../../dev/layout-writer.ts';
import { containerd } from '../peers/containerd.ts';
import { nativePipeline } from '../peers/native-pipeline.ts';
import { podman } from '../peers/podman.ts';
import { tar } from '../peers/tar.ts';
import { umoci } from '../peers/umoci.ts';
import { unpackd } from '../peers/unpackd.ts';
import { residentUnpackd } from '../peers/unpackd-resident.ts';
import { folderFor, race } from '../race.ts';
import { aheadOfAll, memoryBelow, timesAsFast } from './goals.ts';
import { type Scenario, workOf } from './scenario.ts';

const FASTER_THAN_CONTAINERD = { gzip: 2.4, zstd: 2 } as const;

/** The real image from a local layout to committed snapshots in memory. No program syncs. */
export function localScenario(compression: LayerCompression): Scenario {
  return {
    name: `local-${compression}`,
    minutes: [compression === 'gzip' ? 4 : 3, compression === 'gzip' ? 0.6 : 0],
    async run(stage) {
      const image = await stage.images.real(compression);
      const task = async (name: string) => ({ image, folder: await folderFor(stage.folder, name) });
      const result = await race(
        [
          unpackd(stage.build, await task('unpackd')),
          residentUnpackd(stage.build, await task('resident')),
          containerd(await task('containerd')),
          ...(await Promise.all(
            stage.containerds.map(async (programs, index) =>
              containerd(await task(`containerd-${index}`), { programs }),
            ),
          )),
          nativePipeline(await task('native'), 'by tee'),
          ...(stage.quick ? [] : [nativePipeline(await task('native-twice'), 'inflated twice')]),
          ...(stage.quick ? [] : [tar(await task('tar')), umoci(await task('umoci')), podman(await task('podman'))]),
        ],
        stage.raceOptions(),
      );
      const times = FASTER_THAN_CONTAINERD[compression];
      return {
        ...result,
        name: `local-${compression}`,
        title: `${image.layers.length} layers, ${compression}, from local blobs, in memory`,
        work: workOf(image),
        reference: 'unpackd',
        goals: [
          timesAsFast(result, 'unpackd', 'containerd', times),
          timesAsFast(result, 'unpackd, resident', 'containerd', times),
          timesAsFast(result, 'unpackd', 'floor', 1),
          timesAsFast(result, 'unpackd, resident', 'floor', 1),
          ...aheadOfAll(result, 'unpackd', ['containerd', 'floor', 'tar']),
          memoryBelow(result, 'unpackd', 400e6),
          memoryBelow(result, 'unpackd, resident', 400e6),
        ],
      };
    },
  };
}
