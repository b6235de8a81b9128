import { open, rm } from 'node:fs/promises';
import { freemem } from 'node:os';
import { join } from 'node:path';
import type { UnpackResult } from '../../src/queue/formats.ts';
import type { BenchImage } from '../images/bench-image.ts';
import { oneFile, thinLayers, tinyFiles } from '../images/generated-layers.ts';
import type { Entrant } from '../peers/contestant.ts';
import { unpackd } from '../peers/unpackd.ts';
import { folderFor, type RaceResult, race } from '../race.ts';
import { medianSeconds, rowOf } from './goals.ts';
import type { GoalResult, Scenario, Series, Stage } from './scenario.ts';

interface Ladder {
  readonly title: string;
  readonly unit: string;
  /** The three sizes, from small to large. */
  readonly steps: readonly number[];
  readonly image: (stage: Stage, count: number) => Promise<BenchImage>;
}

const LADDERS: readonly Ladder[] = [
  {
    title: 'entries',
    unit: 'files of 100 bytes',
    steps: [10_000, 100_000, 1_000_000],
    image: (stage, count) => stage.images.generated(`tiny-files-${count}`, 'zstd', () => [tinyFiles(count)]),
  },
  {
    title: 'bytes',
    unit: 'MiB in one file',
    steps: [250, 1000, 4000],
    image: (stage, count) => stage.images.generated(`one-file-${count}`, 'zstd', () => [oneFile(count * 2 ** 20)]),
  },
  {
    title: 'layers',
    unit: 'layers of one file',
    steps: [1, 16, 128],
    image: (stage, count) => stage.images.generated(`thin-layers-${count}`, 'gzip', () => thinLayers(count)),
  },
];

/** About the memory that the largest tree needs, in bytes. */
const TOUCHED = 6 * 2 ** 30;
const PIECE = Buffer.alloc(1 << 20);

/** How much more each entry, byte or layer may cost in the largest image than in the one before it. */
const LINEAR = 1.25;
/** Rounds. A long run has little noise, so few are enough. */
const FEW = 2;

/** The same work in three sizes: it must not take more time than the size explains. */
export const growthScenario: Scenario = {
  name: 'growth',
  minutes: [3, 0],
  async run(stage) {
    const results: RaceResult[] = [];
    const series: Series[] = [];
    const goals: GoalResult[] = [];
    for (const ladder of LADDERS) {
      const commits = new Map<number, number[]>();
      const entrants = [];
      for (const count of ladder.steps) {
        const image = await ladder.image(stage, count);
        const task = { image, folder: await folderFor(stage.folder, `${ladder.title}-${count}`) };
        const noted: number[] = [];
        commits.set(count, noted);
        const onResult = (result: UnpackResult) => void noted.push(...commitTimes(result));
        entrants.push(inTouchedMemory(unpackd(stage.build, task, { onResult }, nameOf(ladder, count)), task.folder));
      }
      const result = await race(entrants, stage.raceOptions({ rounds: Math.min(stage.rounds, FEW), warmUp: false }));
      results.push(result);
      const points = ladder.steps.map((count) => ({
        count,
        seconds: medianSeconds(rowOf(result, nameOf(ladder, count))),
      }));
      series.push({ title: ladder.title, unit: ladder.unit, points });
      goals.push(linear(ladder, points), ...(ladder.title === 'layers' ? [] : [steadyCommit(ladder, commits)]));
    }
    return {
      rows: results.flatMap(({ rows }) => rows),
      absent: results.flatMap(({ absent }) => absent),
      name: 'growth',
      title: 'the same work in three sizes, in memory that was written to before',
      reference: '',
      goals,
      series,
    };
  },
};

/**
 * Writes to memory before each run. A virtual machine gets most of its memory from the host at the first write, which takes
 * up to eight times as long as a later one. Without this, the largest image would be slower for that reason alone.
 */
function inTouchedMemory(entrant: Entrant, folder: string): Entrant {
  const path = join(folder, 'touched');
  return {
    ...entrant,
    async enter() {
      const contestant = await entrant.enter();
      return {
        ...contestant,
        async prepare() {
          await contestant.prepare?.();
          const file = await open(path, 'w');
          try {
            for (let left = Math.min(TOUCHED, freemem() / 3); left > 0; left -= PIECE.length) await file.write(PIECE);
          } finally {
            await file.close();
            await rm(path);
          }
        },
      };
    },
  };
}

function nameOf({ unit }: Ladder, count: number): string {
  return `${count.toLocaleString('en-US')} ${unit}`;
}

/** Compares the cost of each more between the sizes, so that the start of the process does not count. */
function linear({ title, unit }: Ladder, points: Series['points']): GoalResult {
  const [small, middle, large] = points;
  const goal = `time grows with ${title} and no faster, to ${large?.count.toLocaleString('en-US')} ${unit}`;
  if (small === undefined || middle === undefined || large === undefined || Number.isNaN(large.seconds))
    return { goal, measured: 'not measured', met: undefined };
  const before = (middle.seconds - small.seconds) / (middle.count - small.count);
  const after = (large.seconds - middle.seconds) / (large.count - middle.count);
  return {
    goal,
    measured: `each more costs ${(after / before).toFixed(2)} times as much`,
    met: after / before <= LINEAR,
  };
}

function steadyCommit({ title, steps }: Ladder, commits: ReadonlyMap<number, readonly number[]>): GoalResult {
  const goal = `the commit takes no longer with more ${title}`;
  const least = (count: number | undefined) => Math.min(...(commits.get(count ?? 0) ?? []));
  const [first, last] = [least(steps[0]), least(steps.at(-1))];
  if (!Number.isFinite(first) || !Number.isFinite(last)) return { goal, measured: 'not measured', met: undefined };
  // a difference below two milliseconds is noise
  return {
    goal,
    measured: `${first.toFixed(1)} ms, ${last.toFixed(1)} ms`,
    met: last <= Math.max(2 * first, first + 2),
  };
}

/** Milliseconds that the commit of each layer took. */
function commitTimes({ images }: UnpackResult): number[] {
  return images
    .flatMap(({ layers }) => layers)
    .flatMap(({ timeline }) => (timeline === undefined ? [] : [timeline.committedMs - timeline.committingMs]));
}
