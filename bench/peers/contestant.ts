import type { BenchImage } from '../images/bench-image.ts';
import type { Standing } from '../measure.ts';

/**
 * Someone who unpacks one image in one place, again and again. Its life: made by an entrant (servers started, blobs where
 * it wants them) → for each round `prepare`, `run`, `reset` → `close`. Only `run` is measured.
 */
export interface Contestant {
  /** Processes of this one's that run throughout. */
  readonly standing?: Standing;
  prepare?(): Promise<void>;
  /** @returns the seconds that count, where they are not those that passed */
  run(): Promise<number | undefined>;
  /** Leaves the place as it was before `prepare`; called after a failed run too. */
  reset?(): Promise<void>;
  close?(): Promise<void>;
}

/** A name on the list of a scenario, before anybody knows whether it can take part. */
export interface Entrant {
  /** As tables show it. */
  readonly name: string;
  /** What is measured, in words: a command, or which part of what. */
  readonly how: string;
  /** Runs at most, and none to warm up: for who takes many times as long as the others. Default: as everybody. */
  readonly rounds?: number;
  /** @throws Unavailable */
  enter(): Promise<Contestant>;
}

/** Why somebody can't take part: no failure of the benchmark, and told in its results. */
export class Unavailable extends Error {
  override readonly name = 'Unavailable';
}

/** What an entrant is to unpack, and in which folder. */
export interface Task {
  readonly image: BenchImage;
  /** Its own, empty. */
  readonly folder: string;
}

export const NOBODY: Standing = { workers: [], servers: [] };
