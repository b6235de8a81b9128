import { type GeneratedLayer, oneFile, smallFiles, thinLayers } from '../images/generated-layers.ts';
import { containerd } from '../peers/containerd.ts';
import { nativePipeline } from '../peers/native-pipeline.ts';
import { podman } from '../peers/podman.ts';
import { tar } from '../peers/tar.ts';
import { umoci } from '../peers/umoci.ts';
import { unpackd } from '../peers/unpackd.ts';
import { residentUnpackd } from '../peers/unpackd-resident.ts';
import { folderFor, race } from '../race.ts';
import { aheadOfAll } from './goals.ts';
import { newestContainerd, type Scenario, type Stage, workOf } from './scenario.ts';

interface Shape {
  readonly name: string;
  readonly minutes: readonly [number, number];
  readonly title: string;
  /** The name of the image, which says its contents, and its layers. */
  readonly image: (quick: boolean) => { readonly name: string; readonly layers: () => Iterable<GeneratedLayer> };
}

const SHAPES: readonly Shape[] = [
  {
    name: 'small-files',
    minutes: [1.5, 0.3],
    title: 'one layer of many small files, gzip, in memory',
    image: () => ({ name: 'small-files-30000', layers: () => [smallFiles(30_000)] }),
  },
  {
    name: 'one-file',
    minutes: [4.5, 0],
    title: 'one layer of one 2 GB file, gzip, in memory',
    image: () => ({ name: 'one-file-2000', layers: () => [oneFile(2000 * 2 ** 20)] }),
  },
  {
    name: 'many-layers',
    minutes: [1.5, 0],
    title: '100 layers of one file each, gzip, in memory',
    image: () => ({ name: 'thin-layers-100', layers: () => thinLayers(100) }),
  },
];

/** Images with one kind of content: many small files, one large file, many layers. */
export const shapeScenarios: readonly Scenario[] = SHAPES.map((shape) => ({
  name: shape.name,
  minutes: shape.minutes,
  run: (stage) => runShape(shape, stage),
}));

async function runShape(shape: Shape, stage: Stage) {
  const { name, layers } = shape.image(stage.quick);
  const image = await stage.images.generated(name, 'gzip', layers);
  const task = async (who: string) => ({ image, folder: await folderFor(stage.folder, who) });
  const result = await race(
    [
      unpackd(stage.build, await task('unpackd')),
      residentUnpackd(stage.build, await task('resident')),
      containerd(await task('containerd'), { programs: newestContainerd(stage) }),
      nativePipeline(await task('native'), 'by tee'),
      tar(await task('tar')),
      ...(stage.quick ? [] : [umoci(await task('umoci')), podman(await task('podman'))]),
    ],
    stage.raceOptions(),
  );
  return {
    ...result,
    name: shape.name,
    title: shape.title,
    work: workOf(image),
    reference: 'unpackd',
    goals: [...aheadOfAll(result, 'unpackd', ['floor']), ...aheadOfAll(result, 'unpackd, resident', ['floor'])],
  };
}
