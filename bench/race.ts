import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './commands.ts';
import { measure, type Sample } from './measure.ts';
import { type Contestant, type Entrant, NOBODY, Unavailable } from './peers/contestant.ts';

/** The figures of one program in a race. */
export interface Row {
  readonly name: string;
  readonly how: string;
  /** One for each round, in order. A slow program runs in the first rounds only. */
  readonly samples: readonly Sample[];
}

/** A program that could not run, or that failed in a round. */
export interface Absence {
  readonly name: string;
  readonly reason: string;
}

export interface RaceResult {
  readonly rows: readonly Row[];
  readonly absent: readonly Absence[];
}

export interface RaceOptions {
  readonly rounds: number;
  /** Call sync before each run, so that a run does not wait for the data of the run before. For races on a disk. */
  readonly settleDisk?: boolean;
  /** Default true: one round that does not count comes first, for page cache, daemons and compiled code. */
  readonly warmUp?: boolean;
  readonly onRun: (name: string, round: number, sample: Sample) => void;
}

/**
 * Runs all programs in turn, A B C A B C…, so that a disturbance of the machine affects all of them alike. A program that
 * fails leaves the race with the reason, and the others continue.
 */
export async function race(entrants: readonly Entrant[], options: RaceOptions): Promise<RaceResult> {
  const absent: Absence[] = [];
  const runners: { entrant: Entrant; contestant: Contestant; samples: Sample[]; out: boolean }[] = [];
  try {
    for (const entrant of entrants) {
      try {
        runners.push({ entrant, contestant: await entrant.enter(), samples: [], out: false });
      } catch (error) {
        absent.push({ name: entrant.name, reason: reasonOf(error) });
      }
    }
    for (let round = options.warmUp === false ? 1 : 0; round <= options.rounds; round++) {
      for (const runner of runners) {
        const { rounds } = runner.entrant;
        if (runner.out || (rounds !== undefined && (round === 0 || round > rounds))) continue;
        try {
          const sample = await once(runner.contestant, options);
          if (round > 0) runner.samples.push(sample);
          options.onRun(runner.entrant.name, round, sample);
        } catch (error) {
          runner.out = true;
          absent.push({ name: runner.entrant.name, reason: reasonOf(error) });
        }
      }
    }
  } finally {
    for (const { contestant } of runners) await contestant.close?.().catch(() => {});
  }
  const rows = runners.filter(({ out }) => !out);
  return { rows: rows.map(({ entrant: { name, how }, samples }) => ({ name, how, samples })), absent };
}

async function once(contestant: Contestant, options: RaceOptions): Promise<Sample> {
  try {
    await contestant.prepare?.();
    if (options.settleDisk) await run('sync', []);
    return await measure(contestant.standing ?? NOBODY, () => contestant.run());
  } finally {
    await contestant.reset?.();
  }
}

function reasonOf(error: unknown): string {
  const sentence = error instanceof Error ? error.message : String(error);
  return error instanceof Unavailable ? sentence : `failed: ${sentence}`;
}

/** A folder for one contestant alone. */
export async function folderFor(parent: string, name: string): Promise<string> {
  const folder = join(parent, name.replaceAll(/[^\w.]+/g, '-'));
  await mkdir(folder, { recursive: true });
  return folder;
}
