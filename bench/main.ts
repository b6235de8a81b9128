import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileSystemFacts } from '../src/system/filesystem.ts';
import { atExit } from './at-exit.ts';
import { type Build, build } from './build.ts';
import { run } from './commands.ts';
import type { BenchImage, Contents } from './images/bench-image.ts';
import { ImageCache } from './images/image-cache.ts';
import { describeMachine } from './machine.ts';
import { type BenchOptions, parseOptions, USAGE } from './options.ts';
import { publish } from './report/publish.ts';
import { scenarioMarkdown, secondsText } from './report/table.ts';
import { type Report, writeReport } from './report/write.ts';
import { SCENARIOS } from './scenarios/all.ts';
import type { Scenario, ScenarioResult, Stage } from './scenarios/scenario.ts';
import { makeWorkFolder, removeTree } from './work-folder.ts';

/**
 * `npm run bench`: measures unpackd and other programs with the same work, in turn. Tables go to stdout, progress to
 * stderr, and both with plots to the results folder.
 */
const packageRoot = join(import.meta.dirname, '..');

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130));
try {
  await main();
} catch (error) {
  note(error instanceof Error ? `bench: ${error.message}` : String(error));
  process.exit(1);
}
// the exit handlers end daemons that are still running
process.exit(0);

async function main(): Promise<void> {
  const options = parseOptions(process.argv.slice(2), packageRoot);
  if (options === 'help') return void process.stdout.write(`${USAGE}\n`);
  if (options === 'list') return void process.stdout.write(`${list()}\n`);
  const chosen = choose(options);
  const machine = describeMachine(packageRoot);
  note(`${machine.processors} × ${machine.processor}, Node ${machine.node}, commit ${machine.commit}`);
  note(`${chosen.map(({ name }) => name).join(', ')}: about ${Math.ceil(estimate(chosen, options))} minutes`);
  if (machine.load > 0.5)
    note(`the machine is busy (load ${machine.load.toFixed(1)}): trust the ratios only, not the seconds`);
  const stage = await setStage(options);
  const results: ScenarioResult[] = [];
  const report: Report = { machine, quick: options.quick, rounds: options.rounds, results };
  for (const scenario of chosen) {
    const began = Date.now();
    note(`\n${scenario.name}`);
    try {
      const result = await scenario.run(stage);
      results.push({ ...result, commit: machine.commit });
      process.stdout.write(`${scenarioMarkdown(result)}\n`);
    } catch (error) {
      // a scenario that fails must not stop the others
      note(`${scenario.name} could not be run: ${error instanceof Error ? (error.stack ?? error.message) : error}`);
    }
    // the folder on the disk is removed at the end (`LateRemoval`)
    await emptied(stage.folder);
    note(`${scenario.name} took ${secondsText((Date.now() - began) / 60_000)} minutes`);
    // after each scenario, so that an interrupted run keeps its results
    await writeReport(options.results, report);
  }
  if (options.publish) await publish(packageRoot, report);
  note(`\nresults in ${options.results}`);
}

async function setStage(options: BenchOptions): Promise<Stage> {
  const work = await makeWorkFolder(options.folder);
  note(`working in ${work.path} (${work.fileSystem})`);
  const built = await build(packageRoot, (text) => note(`type errors, measuring anyway: ${text}`));
  const images = new ImageCache({
    real: options.image,
    cache: join(packageRoot, '.bench', 'images'),
    work: work.path,
    packageRoot,
    quick: options.quick,
    note,
    look: (image) => contentsOf(built, image, work.path),
  });
  const folder = join(work.path, 'run');
  await mkdir(folder);
  return {
    build: built,
    images,
    quick: options.quick,
    rounds: options.rounds,
    folder,
    diskFolder: await makeDiskFolder(options.diskFolder),
    containerds: options.containerds,
    otherCheckouts: options.otherCheckouts,
    note,
    raceOptions: (more = {}) => ({
      rounds: options.rounds,
      warmUp: !options.quick,
      onRun: (name, round, { seconds, disturbance }) => {
        const disturbed = disturbance > 0.1 ? `, others had ${Math.round(disturbance * 100)} % of the machine` : '';
        note(
          `  ${round === 0 ? 'warm-up' : `round ${round}`}  ${name.padEnd(32)} ${secondsText(seconds)} s${disturbed}`,
        );
      },
      ...more,
    }),
  };
}

/** A new folder on a disk: in the temporary folder, or in the project if that one is a tmpfs. */
async function makeDiskFolder(given: string | undefined): Promise<string> {
  const parents = given === undefined ? [tmpdir(), join(packageRoot, '.bench')] : [given];
  let parent = parents[0] ?? tmpdir();
  for (const candidate of parents) {
    await mkdir(candidate, { recursive: true });
    parent = candidate;
    if ((await fileSystemFacts(candidate)).type !== 'tmpfs') break;
  }
  const folder = await mkdtemp(join(parent, 'unpackd-bench-disk-'));
  atExit(() => removeTree(folder));
  return folder;
}

/** Bytes and entries of the layers of an image, from the result of unpacking it once. */
async function contentsOf({ node, cli }: Build, image: BenchImage, work: string): Promise<Contents> {
  const store = join(work, 'look');
  const args = ['apply', `${image.folder}:${image.tag}`, '--json', '--root', store, '--durable', 'false'];
  const json = await run(node, [cli, ...args]);
  await rm(store, { recursive: true, force: true });
  const result: { images: { layers: { uncompressedBytes?: number; entries?: number }[] }[] } = JSON.parse(json);
  const layers = result.images.flatMap((one) => one.layers);
  return {
    tarBytes: layers.reduce((sum, layer) => sum + (layer.uncompressedBytes ?? 0), 0),
    entries: layers.reduce((sum, layer) => sum + (layer.entries ?? 0), 0),
  };
}

function choose({ only, quick }: BenchOptions): Scenario[] {
  const unknown = only.find((name) => !SCENARIOS.some((scenario) => scenario.name.startsWith(name)));
  if (unknown !== undefined) throw new Error(`there is no scenario ${unknown}; --list shows them`);
  if (only.length > 0) return SCENARIOS.filter(({ name }) => only.some((one) => name.startsWith(one)));
  return SCENARIOS.filter(({ minutes: [, short] }) => !quick || short > 0);
}

function estimate(scenarios: readonly Scenario[], { quick, rounds }: BenchOptions): number {
  return scenarios.reduce((sum, { minutes: [full, short] }) => {
    // the minutes of a scenario are for five rounds and a warm-up, or for two rounds with --quick
    return sum + (quick && short > 0 ? (short / 2) * rounds : (full / 6) * (rounds + 1));
  }, 0);
}

function list(): string {
  return SCENARIOS.map(({ name, minutes: [full, quick] }) => {
    const short = quick === 0 ? 'not with --quick' : `${quick} min with --quick`;
    return `${name.padEnd(16)} ${full} min, ${short}`;
  }).join('\n');
}

async function emptied(folder: string): Promise<void> {
  for (const name of await readdir(folder)) removeTree(join(folder, name));
}

function note(sentence: string): void {
  process.stderr.write(`${sentence}\n`);
}
