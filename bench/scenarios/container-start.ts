import { join } from 'node:path';
import { onPath, run } from '../commands.ts';
import type { BenchImage } from '../images/bench-image.ts';
import { nameOf } from '../peers/containerd.ts';
import { ContainerdDaemon, findContainerd } from '../peers/containerd-daemon.ts';
import { type Entrant, Unavailable } from '../peers/contestant.ts';
import { folderFor, type RaceResult, race } from '../race.ts';
import { referenceOf, startImageServers } from '../servers/image-servers.ts';
import { startSnapshotter } from '../servers/snapshotter-process.ts';
import { median } from '../statistics.ts';
import { rowOf } from './goals.ts';
import type { GoalResult, Scenario, ScenarioResult, Stage } from './scenario.ts';

/** Starts of each row: one takes a tenth of a second, and they differ by a few milliseconds. */
const STARTS = { full: 60, quick: 10 };
/** Seconds that a start from our store may take longer than one from containerd's. */
const MOST = 0.02;

/** The two snapshotters of one containerd: its own overlayfs, and our store through `unpackd snapshotter`. */
const SNAPSHOTTERS = { containerd: 'overlayfs', ours: 'unpackd' };
const rowName = (containerd: string, snapshotter: string) => `${containerd}, ctr run from ${snapshotter}`;

/** How long a container takes from `ctr run` to its end, from containerd's own snapshots and from ours. */
export const containerStartScenario: Scenario = {
  name: 'container-start',
  minutes: [2, 0.5],
  async run(stage) {
    const image = await stage.images.real('gzip');
    const rounds = stage.quick ? STARTS.quick : STARTS.full;
    const servers = await startImageServers(image, await folderFor(stage.folder, 'registry'));
    try {
      if (servers.registry instanceof Unavailable) {
        return resultOf([{ rows: [], absent: [{ name: 'containerd', reason: servers.registry.message }] }], [], rounds);
      }
      const reference = referenceOf(image, servers.registry);
      const parts: RaceResult[] = [];
      const goals: GoalResult[] = [];
      for (const [index, programs] of [undefined, ...stage.containerds].entries()) {
        const folder = await folderFor(stage.folder, `containerd-${index}`);
        const part = await withContainers(stage, { image, reference, folder, programs }, (entrants) =>
          // the first start is never like the others; so many lines of progress help nobody
          race(entrants, stage.raceOptions({ rounds, warmUp: true, onRun: () => {} })),
        );
        parts.push(part);
        goals.push(goalOf(part, nameOf(programs)));
      }
      return resultOf(parts, goals, rounds);
    } finally {
      servers.stop();
    }
  },
};

function resultOf(parts: readonly RaceResult[], goals: readonly GoalResult[], rounds: number): ScenarioResult {
  const rows = parts.flatMap((part) => part.rows);
  return {
    rows,
    absent: parts.flatMap(({ absent }) => absent),
    name: 'container-start',
    title: 'a container of the real image, which runs `true`, in memory',
    reference: rows[0]?.name ?? '',
    goals,
    notes: [`Each is the median of ${rounds} starts, in turn. The time is that of ctr, from its start to its end.`],
  };
}

/** One containerd, and the image that both snapshotters get. */
interface Place {
  readonly image: BenchImage;
  /** The name of the image in a registry. */
  readonly reference: string;
  readonly folder: string;
  readonly programs: string | undefined;
}

/** Runs `work` with the image in both snapshotters of a containerd. @returns absences if containers can't run here */
async function withContainers(
  { build }: Stage,
  { image, reference, folder, programs }: Place,
  work: (entrants: Entrant[]) => Promise<RaceResult>,
): Promise<RaceResult> {
  const name = nameOf(programs);
  if (!onPath('runc')) return { rows: [], absent: [{ name, reason: 'runc is not installed' }] };
  const store = join(folder, 'store');
  await run(build.node, [build.cli, 'apply', `${image.folder}:${image.tag}`, '--root', store]);
  const snapshotter = await startSnapshotter(build, store, join(folder, 'snapshotter.sock'));
  try {
    const proxies = { [SNAPSHOTTERS.ours]: snapshotter.socket };
    const daemon = await ContainerdDaemon.start(findContainerd(programs), join(folder, 'containerd'), { proxies });
    try {
      await pullInto(daemon, reference);
      return await work(
        Object.values(SNAPSHOTTERS).map((one) => ({
          name: rowName(name, one),
          how: `ctr run --rm --snapshotter ${one} IMAGE NAME true`,
          enter: async () => ({
            standing: { workers: [daemon.pid, ...(one === SNAPSHOTTERS.ours ? [snapshotter.pid] : [])], servers: [] },
            run: () => start(daemon, one, reference),
          }),
        })),
      );
    } finally {
      await daemon.stop();
    }
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    return { rows: [], absent: [{ name, reason: error.message }] };
  } finally {
    await snapshotter.stop();
  }
}

/**
 * Pulls the image for both snapshotters. Such a pull does not tell a snapshotter which layer it wants, so it extracts all
 * layers into ours once more, though ours has them (docs/containerd.md).
 */
async function pullInto(daemon: ContainerdDaemon, reference: string): Promise<void> {
  // in 2.x, the service that pulls otherwise knows only the snapshotters of its configuration
  const local = daemon.programs.major >= 2 ? ['--local'] : [];
  for (const one of Object.values(SNAPSHOTTERS)) {
    await daemon.ctr('images', 'pull', ...local, '--plain-http', '--snapshotter', one, reference);
  }
}

async function start(daemon: ContainerdDaemon, snapshotter: string, image: string): Promise<undefined> {
  await daemon.ctr('run', '--rm', '--snapshotter', snapshotter, image, 'bench-start', 'true');
}

/** The median of the differences of all pairs, because a disturbance affects both starts of a pair. */
function goalOf(result: RaceResult, containerd: string): GoalResult {
  const [theirs, ours] = [SNAPSHOTTERS.containerd, SNAPSHOTTERS.ours].map((one) =>
    rowOf(result, rowName(containerd, one))?.samples.map(({ seconds }) => seconds),
  );
  const goal = `${rowName(containerd, SNAPSHOTTERS.ours)}: at most ${MOST * 1000} ms more than from ${SNAPSHOTTERS.containerd}`;
  if (theirs === undefined || ours === undefined) return { goal, measured: 'one of both did not run', met: undefined };
  const more = median(ours.map((seconds, round) => seconds - (theirs[round] ?? Number.NaN)));
  return { goal, measured: `${(more * 1000).toFixed(1)} ms more`, met: more <= MOST };
}
