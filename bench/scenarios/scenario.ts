import type { UnpackResult } from '../../src/queue/result.ts';
import type { Build } from '../build.ts';
import type { BenchImage } from '../images/bench-image.ts';
import type { ImageCache } from '../images/image-cache.ts';
import type { RaceOptions, RaceResult } from '../race.ts';

/** One question to the machine. */
export interface Scenario {
  /** For `--only`. */
  readonly name: string;
  /** Minutes that it takes, about, in full and with `--quick`; 0: it is left out then. */
  readonly minutes: readonly [full: number, quick: number];
  run(stage: Stage): Promise<ScenarioResult>;
}

/** What every scenario is given. */
export interface Stage {
  readonly build: Build;
  readonly images: ImageCache;
  readonly quick: boolean;
  readonly rounds: number;
  /** Empty folders: in memory (where the machine lets us), and on a disk. Both are emptied after the scenario. */
  readonly folder: string;
  readonly diskFolder: string;
  /** Folders with other containerds than the PATH's. */
  readonly containerds: readonly string[];
  readonly note: (sentence: string) => void;
  /** Race options that tell a person how it goes. */
  readonly raceOptions: (more?: Partial<RaceOptions>) => RaceOptions;
}

export interface ScenarioResult extends RaceResult {
  readonly name: string;
  readonly title: string;
  /** The commit that was measured. */
  readonly commit?: string;
  /** The same for everybody. */
  readonly work?: Work;
  /** Whose times the others are divided by: the name of a row. */
  readonly reference: string;
  readonly goals: readonly GoalResult[];
  /** What a reader must know. */
  readonly notes?: readonly string[];
  /** For the plot of growth. */
  readonly series?: readonly Series[];
  /** One of our runs, to be drawn. */
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
  /** `undefined`: who it is measured against could not take part. */
  readonly met: boolean | undefined;
}

/** Seconds against a count of something. */
export interface Series {
  readonly title: string;
  readonly unit: string;
  readonly points: readonly { readonly count: number; readonly seconds: number }[];
}

/** The last of those that were named, or the PATH's: where one containerd is enough. */
export function newestContainerd({ containerds }: Stage): string | undefined {
  return containerds.at(-1);
}

export function workOf({ blobBytes, tarBytes, entries, layers }: BenchImage): Work {
  return { blobBytes, tarBytes, entries, layers: layers.length };
}
