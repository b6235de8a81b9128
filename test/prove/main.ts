import { inspect, parseArgs } from 'node:util';
import type { Proof, Run, Trials } from './proof.ts';

/**
 * `npm run prove`: checks properties for random cases, for a given time or number of cases.
 *
 *     npm run prove                                          lists the proofs
 *     npm run prove kills                                    one minute, from a random seed
 *     npm run prove kills -- --for 10m --seed 7              longer, from that seed
 *     npm run prove kills -- --seed 4711 --cases 1           repeats one case
 *     npm run prove all -- --seconds 20 --seed 1             each proof in turn, as CI does
 *
 * Exit status: 0 nothing was found, 1 something was found, 2 the command is wrong or a proof cannot run here.
 */
const NAMES = [
  'power-cuts',
  'served-power-cuts',
  'kills',
  'random-images',
  'schedules',
  'fuzz',
  'containerd',
  'collection',
  'soak',
  'failover',
] as const;
type Name = (typeof NAMES)[number];

/** Milliseconds. Limit of one case, also on a busy machine. */
const CASE_LIMIT = 300_000;
const SEEDS = 2 ** 32;
/** Milliseconds. The longest time that a timer accepts. */
const LONGEST = 24 * 3_600_000;

interface Options {
  readonly seed: number;
  /** Milliseconds. No new case begins after this time. */
  readonly length: number;
  readonly cases: number;
  readonly save: string | undefined;
}

async function main(): Promise<number> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      seed: { type: 'string' },
      seconds: { type: 'string' },
      for: { type: 'string' },
      cases: { type: 'string' },
      save: { type: 'string' },
    },
  });
  const [name, ...more] = positionals;
  if (name === undefined) return list();
  if (more.length > 0) throw new Usage(`one proof at a time, or all: ${positionals.join(' ')}`);
  if (values.seconds !== undefined && values.for !== undefined) throw new Usage('--seconds or --for, not both');
  const cases = values.cases === undefined ? Number.POSITIVE_INFINITY : whole('--cases', values.cases, 1);
  const length = values.seconds === undefined ? values.for : `${values.seconds}s`;
  const options: Options = {
    seed: values.seed === undefined ? Math.floor(Math.random() * SEEDS) : whole('--seed', values.seed, 0) % SEEDS,
    length:
      length === undefined ? (cases === Number.POSITIVE_INFINITY ? 60_000 : cases * CASE_LIMIT) : duration(length),
    cases,
    save: values.save,
  };
  const names = NAMES.filter((each) => name === 'all' || each === name);
  if (names.length === 0) throw new Usage(`there is no proof ${JSON.stringify(name)}; there are ${NAMES.join(', ')}`);
  let status = 0;
  for (const each of names) status = Math.max(status, await prove(await load(each), options));
  return status;
}

class Usage extends Error {}

async function list(): Promise<number> {
  for (const name of NAMES) {
    const proof = await load(name);
    const missing = proof.missing?.() ?? false;
    console.log(
      `${name.padEnd(14)} ${proof.describes}${missing === false ? '' : `\n${' '.repeat(15)}(not here: ${missing})`}`,
    );
  }
  console.log(
    '\nnpm run prove NAME -- [--for 10m | --seconds 20 | --cases 1] [--seed N] [--save DIR]; NAME may be all',
  );
  return 0;
}

async function load(name: Name): Promise<Proof> {
  // only the proofs that were named, because each imports a part of the project
  const { proof } = (await import(`./${name}.ts`)) as { proof: Proof }; // every module of NAMES exports one
  return proof;
}

async function prove(proof: Proof, { seed, length, cases, save }: Options): Promise<number> {
  const missing = proof.missing?.() ?? false;
  if (missing !== false) {
    console.error(`prove: ${proof.name} cannot run here: ${missing}`);
    return 2;
  }
  const controller = new AbortController();
  const interrupt = (): void => controller.abort(new Error('interrupted'));
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupt);
  const counts = new Map<string, number>();
  const run: Run = {
    signal: controller.signal,
    save,
    count: (what, by = 1) => void counts.set(what, (counts.get(what) ?? 0) + by),
  };
  console.log(`${proof.name}: ${proof.describes}; seed ${seed}`);
  const began = performance.now();
  const elapsed = (): string => `${((performance.now() - began) / 1000).toFixed(0)} s`;
  let begun = 0;
  let ended = 0;
  let found: { readonly seed: number; readonly error: unknown } | undefined;
  const progress = setInterval(() => show(`${proof.name}: ${elapsed()}, ${ended} cases`), 500);
  const trials = await proof.open(run);
  // the preparation does not count
  const end = performance.now() + length;
  const one = async (): Promise<void> => {
    while (begun < cases && performance.now() < end && !controller.signal.aborted) {
      const own = (seed + begun++) % SEEDS;
      try {
        await limited(trials.attempt(own), `the case did not end within ${CASE_LIMIT / 1000} s`);
        ended++;
      } catch (error) {
        if (controller.signal.aborted) return;
        found ??= { seed: own, error };
        controller.abort(new Error('something was found'));
      }
    }
  };
  try {
    await Promise.all(Array.from({ length: trials.atOnce ?? 1 }, one));
    show('');
    if (found !== undefined) await tell(proof, trials, found.seed, found.error);
  } finally {
    clearInterval(progress);
    await trials[Symbol.asyncDispose]();
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, interrupt);
  }
  const total = [...counts]
    .sort((a, b) => b[1] - a[1])
    .map(([what, count]) => `${String(count).padStart(9)}  ${what}\n`);
  process.stdout.write(total.join(''));
  const result = found === undefined ? 'nothing found' : 'FOUND something';
  const stopped = found === undefined && controller.signal.aborted;
  console.log(
    `${proof.name}: ${result} in ${ended} cases, ${elapsed()}, seed ${seed}${stopped ? '; ended by a signal' : ''}`,
  );
  return found === undefined ? (stopped ? 130 : 0) : 1;
}

async function tell(proof: Proof, trials: Trials, seed: number, error: unknown): Promise<void> {
  const text = inspect(error);
  console.log(`FOUND by ${proof.name}, case ${seed}:\n${text}`);
  if (trials.explain !== undefined) {
    const more = await limited(trials.explain(seed), 'no smaller case was found in time').catch(String);
    console.log(more);
  }
  console.log(`This case again: npm run prove ${proof.name} -- --seed ${seed} --cases 1`);
}

/** A case that does not end is a finding. The proof must not hang. */
async function limited<T>(work: Promise<T>, sentence: string): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(sentence)), CASE_LIMIT);
  return Promise.race([work, promise]).finally(() => clearTimeout(timer));
}

/** A progress line that is overwritten, on a terminal only. */
function show(line: string): void {
  if (process.stdout.isTTY) process.stdout.write(`\r\u001b[K${line}`);
}

function whole(name: string, text: string, least: number): number {
  const number = Number(text);
  if (!/^\d+$/.test(text) || number < least || !Number.isSafeInteger(number)) {
    throw new Usage(`${name} ${text}: a whole number from ${least} on`);
  }
  return number;
}

function duration(text: string): number {
  const [, amount, unit] = /^(\d+)([smh])$/.exec(text) ?? [];
  const milliseconds = Number(amount) * (unit === 'h' ? 3_600_000 : unit === 'm' ? 60_000 : 1000);
  if (amount === undefined || milliseconds === 0 || milliseconds > LONGEST) {
    throw new Usage(`${text}: how long, a number and s, m or h, 24 hours at most`);
  }
  return milliseconds;
}

try {
  process.exitCode = await main();
} catch (error) {
  const isUsage = error instanceof Usage || (error as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS');
  if (!isUsage) throw error;
  console.error(`prove: ${(error as Error).message.replaceAll('\n', ' ')}`); // both are
  process.exitCode = 2;
}
// a resource that a proof did not close must not keep the process running
process.exit();
