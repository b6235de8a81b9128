import type { BenchImage } from '../images/bench-image.ts';
import type { Standing } from '../measure.ts';

/**
 * A program that unpacks one image into one folder, round by round. Its life: `enter` of an entrant makes it, with servers
 * started and blobs in place → for each round `prepare`, `run`, `reset` → `close`. Only `run` is measured.
 */
export interface Contestant {
  /** Its processes that run during the whole race. */
  readonly standing?: Standing;
  prepare?(): Promise<void>;
  /** @returns seconds to be used instead of the time that passed */
  run(): Promise<number | undefined>;
  /** Restores the state before `prepare`, also after a failed run. */
  reset?(): Promise<void>;
  close?(): Promise<void>;
}

/** A program in the list of a scenario. `enter` finds out whether it can run on this machine. */
export interface Entrant {
  /** The name in tables. */
  readonly name: string;
  /** What is measured: a command, or a part of a job. */
  readonly how: string;
  /** Maximum rounds, without a warm-up, for a program that is many times slower. Default: all rounds. */
  readonly rounds?: number;
  /** @throws Unavailable */
  enter(): Promise<Contestant>;
}

/** The reason why a program cannot run here. The results contain it; the benchmark does not fail. */
export class Unavailable extends Error {
  override readonly name = 'Unavailable';
}

/** The image to unpack, and the folder to work in. */
export interface Task {
  readonly image: BenchImage;
  /** An empty folder of this contestant alone. */
  readonly folder: string;
}

export const NOBODY: Standing = { workers: [], servers: [] };
