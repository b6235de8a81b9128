import { durationText } from '../units.ts';

/** What is wrong with the queue, in sentences for somebody who is woken at night: the first thing that `/` shows. */

export interface Problem {
  readonly level: 'bad' | 'warn';
  readonly finding: string;
  /** What to do. */
  readonly todo: string;
}

export interface Situation {
  readonly paused: boolean;
  /** Waiting and prioritized jobs. */
  readonly waiting: number;
  readonly active: number;
  /** The number of connected workers; `undefined` if the server does not tell. */
  readonly workers: number | undefined;
  /** Milliseconds since the oldest waiting job could have been taken. */
  readonly oldestWait: number | undefined;
  /** Workers that do not report any more although they did not stop, and for how many milliseconds. */
  readonly silent: readonly { readonly name: string; readonly since: number }[];
  /** Sentences of workers that take no jobs, such as a store that cannot be written. */
  readonly unready: readonly string[];
  /** Failed jobs of the last hour. */
  readonly failures: readonly { readonly code: string; readonly count: number }[];
}

/** A job that waits for longer than this number of milliseconds is a problem. */
const LONG_WAIT = 10 * 60_000;
/** Maximum number of workers that are named. */
const NAMED = 5;
const SILENT_TODO =
  'Such a worker was killed, is frozen, or has no connection to Redis. Look at its log and at dmesg of its machine. Its jobs go to other workers.';
/** Codes by which somebody has ended a job on purpose. */
const ON_PURPOSE: readonly string[] = ['CANCELLED'];

export function problemsOf(situation: Situation): Problem[] {
  const { paused, waiting, active, workers, oldestWait, silent, unready, failures } = situation;
  const problems: Problem[] = [];
  const bad = (finding: string, todo: string) => problems.push({ level: 'bad', finding, todo });
  const warn = (finding: string, todo: string) => problems.push({ level: 'warn', finding, todo });
  if (paused)
    bad(
      'The queue is paused, so workers take no jobs.',
      'If nobody needs the pause any more, press Resume at the end of this page.',
    );
  if (workers === 0 && waiting + active > 0) {
    bad(
      'No worker is connected, so jobs wait.',
      'Start one (unpackd worker). If one runs, run unpackd doctor there: it needs the same REDIS_URL, UNPACK_QUEUE and UNPACK_REDIS_PREFIX.',
    );
  }
  if (silent.length > 0) bad(silentFinding(silent), SILENT_TODO);
  for (const sentence of unready.slice(0, NAMED)) bad(sentence, 'Run unpackd doctor on that machine.');
  if (unready.length > NAMED) {
    bad(
      `${unready.length - NAMED} more workers take no jobs.`,
      'The page of the workers has all of them, with the reasons.',
    );
  }
  if (!paused && workers !== 0 && oldestWait !== undefined && oldestWait > LONG_WAIT) {
    warn(
      `The oldest job has waited for ${durationText(oldestWait)}.`,
      active === 0
        ? 'Nothing runs although jobs wait: run unpackd doctor on a worker.'
        : 'The workers have more jobs than they can do: start more workers, or look at a slow job below.',
    );
  }
  const meant = failures.filter(({ code }) => !ON_PURPOSE.includes(code));
  const failed = meant.reduce((sum, { count }) => sum + count, 0);
  if (failed > 0) {
    const codes = meant.map(({ code, count }) => `${code} (${count})`).join(', ');
    warn(
      `${failed === 1 ? 'One job has' : `${failed} jobs have`} failed in the last hour: ${codes}.`,
      'Each failed job says what to do: open it below.',
    );
  }
  return problems;
}

function silentFinding(silent: Situation['silent']): string {
  const [first] = silent;
  if (first !== undefined && silent.length === 1) {
    return `Worker ${first.name} has been silent for ${durationText(first.since)}.`;
  }
  const named = silent.slice(0, NAMED).map(({ name, since }) => `${name} (for ${durationText(since)})`);
  const rest = silent.length - named.length;
  return `${silent.length} workers are silent: ${named.join(', ')}${rest > 0 ? ` and ${rest} more` : ''}.`;
}
