import { type GeneratedLayer, randomFile, rewrittenFile } from '../images/generated-layers.ts';
import { unpackd } from '../peers/unpackd.ts';
import { folderFor, race } from '../race.ts';
import { memoryBelow, rowOf } from './goals.ts';
import type { Scenario } from './scenario.ts';

const LIMIT = 400e6;
const GIGABYTE = 1 << 30;
/** How much more memory a long layer may need than a short one: the noise of the garbage collector. */
const SLACK = 1.15;
const SHORT = 1;
const LONG = 20;

/** Memory of four layers at once, and of one very long layer. */
export const memoryScenario: Scenario = {
  name: 'memory',
  minutes: [1.5, 0],
  async run(stage) {
    const four = await stage.images.generated('four-random-layers', 'gzip', function* (): Generator<GeneratedLayer> {
      for (let index = 0; index < 4; index++) yield randomFile((150 + index) << 20);
    });
    const long = (times: number) =>
      stage.images.generated(`rewritten-${times}`, 'zstd', () => [rewrittenFile(times, GIGABYTE)]);
    const [short, huge] = [await long(SHORT), await long(LONG)];
    const folder = (name: string) => folderFor(stage.folder, name);
    const names = { four: 'four layers at once', short: `${SHORT} GiB in a layer`, long: `${LONG} GiB in a layer` };
    const result = await race(
      [
        unpackd(stage.build, { image: four, folder: await folder('four') }, { flags: ['--threads', '4'] }, names.four),
        unpackd(stage.build, { image: short, folder: await folder('short') }, {}, names.short),
        unpackd(stage.build, { image: huge, folder: await folder('long') }, {}, names.long),
      ],
      stage.raceOptions({ rounds: 1, warmUp: false }),
    );
    const peak = (name: string) => rowOf(result, name)?.samples[0]?.peakBytes ?? Number.NaN;
    const growth = peak(names.long) / peak(names.short);
    return {
      ...result,
      name: 'memory',
      title: 'memory of the process, threads and helpers included',
      reference: '',
      goals: [
        memoryBelow(result, names.four, LIMIT),
        {
          goal: `a layer of ${LONG} GiB takes no more memory than one of ${SHORT}`,
          measured: `${growth.toFixed(2)} times`,
          met: Number.isNaN(growth) ? undefined : growth <= SLACK,
        },
      ],
      notes: ['The long layer writes the same file again and again: the stream is long, but the tree is small.'],
    };
  },
};
