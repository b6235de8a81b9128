import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './commands.ts';
import { measure, type Sample } from './measure.ts';
import { type Contestant, type Entrant, NOBODY, Unavailable } from './peers/contestant.ts';

/** What somebody came to. */
export interface Row {
  readonly name: string;
  readonly how: string;
  /** One for each round, in order; who takes long is in the first rounds only. */
  readonly samples: readonly Sample[];
}

/** Somebody who could not take part, or not to the end. */
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
  /** Write out what is dirty before each run, so that nobody pays for the one before. For races on a disk. */
  readonly settleDisk?: boolean;
  /** A run of each that does not count comes first, unless `false`: page cache, daemons, compiled code. */
  readonly warmUp?: boolean;
  readonly onRun: (name: string, round: number, sample: Sample) => void;
}

/**
 * Lets everybody run in turn, A B C A B C…: what disturbs the machine disturbs all of them alike. Who fails is out, with
 * the reason, and the others go on.
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

/** A folder for each contestant, so that nobody meets what another left. */
export async function folderFor(parent: string, name: string): Promise<string> {
  const folder = join(parent, name.replaceAll(/[^\w.]+/g, '-'));
  await mkdir(folder, { recursive: true });
  return folder;
}
