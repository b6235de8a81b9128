import type { UnpackResult } from '../../src/queue/formats.ts';
import type { Build } from '../build.ts';
import type { BenchImage } from '../images/bench-image.ts';
import type { ImageCache } from '../images/image-cache.ts';
import type { RaceOptions, RaceResult } from '../race.ts';

/** One question that the benchmark answers. */
export interface Scenario {
  /** For `--only`. */
  readonly name: string;
  /** About the minutes it takes, in full and with `--quick`. 0: `--quick` leaves it out. */
  readonly minutes: readonly [full: number, quick: number];
  run(stage: Stage): Promise<ScenarioResult>;
}

/** What every scenario gets from `main.ts`. */
export interface Stage {
  readonly build: Build;
  readonly images: ImageCache;
  readonly quick: boolean;
  readonly rounds: number;
  /** Empty folders: in memory if possible, and on a disk. The first is emptied after each scenario. */
  readonly folder: string;
  readonly diskFolder: string;
  /** Folders with other containerds, besides the one on the PATH. */
  readonly containerds: readonly string[];
  /** Checkouts of other commits, whose workers take part in the scenarios `observed-…`. */
  readonly otherCheckouts: readonly string[];
  readonly note: (sentence: string) => void;
  /** Race options that print the progress. */
  readonly raceOptions: (more?: Partial<RaceOptions>) => RaceOptions;
}

export interface ScenarioResult extends RaceResult {
  readonly name: string;
  readonly title: string;
  /** The commit that was measured. */
  readonly commit?: string;
  /** The same for all programs. */
  readonly work?: Work;
  /** The name of the row that the ratios refer to. */
  readonly reference: string;
  readonly goals: readonly GoalResult[];
  /** Sentences below the table. */
  readonly notes?: readonly string[];
  /** For the growth plot. */
  readonly series?: readonly Series[];
  /** A result of unpackd, for the timeline plot. */
  readonly timeline?: UnpackResult;
}

export interface Work {
  readonly blobBytes: number;
  readonly tarBytes: number;
  readonly entries: number;
  readonly layers: number;
}

export interface GoalResult {
  readonly goal: string;
  readonly measured: string;
  /** `undefined`: one of the programs did not run. */
  readonly met: boolean | undefined;
}

/** Seconds against a count of something. */
export interface Series {
  readonly title: string;
  readonly unit: string;
  readonly points: readonly { readonly count: number; readonly seconds: number }[];
}

/** The last containerd of the options, or the one on the PATH: for a scenario that needs only one. */
export function newestContainerd({ containerds }: Stage): string | undefined {
  return containerds.at(-1);
}

export function workOf({ blobBytes, tarBytes, entries, layers }: BenchImage): Work {
  return { blobBytes, tarBytes, entries, layers: layers.length };
}
