import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { run } from '../commands.ts';
import type { Entrant } from '../peers/contestant.ts';
import { folderFor, type RaceResult, race } from '../race.ts';
import { medianSeconds, rowOf } from './goals.ts';
import type { GoalResult, Scenario, Stage } from './scenario.ts';

const IMAGES = 2000;
/** Images share their lowest layer with others, and have three of their own. */
const BASES = 50;
const OWN_LAYERS = ['libraries', 'configuration', 'application'];
/** Seconds that the list may take longer than that of an empty store. */
const MOST = 0.1;

const EMPTY = 'unpackd snapshots ls, empty store';
const FULL = 'unpackd images ls, 2,000 images';

/** The time that a person waits for the list of a store that has been used for years. */
export const imageListScenario: Scenario = {
  name: 'image-list',
  minutes: [1, 0.7],
  async run(stage) {
    const roots = { empty: await storeOf(stage, 'empty', 0), full: await storeOf(stage, 'full', IMAGES) };
    const entrants = [
      command(stage, EMPTY, ['snapshots', 'ls', '--root', roots.empty]),
      command(stage, FULL, ['images', 'ls', '--root', roots.full]),
    ];
    const result = await race(entrants, stage.raceOptions());
    return {
      ...result,
      name: 'image-list',
      title: `the list of ${IMAGES.toLocaleString('en-US')} images, each with ${OWN_LAYERS.length + 1} layers`,
      reference: FULL,
      goals: [goalOf(result)],
    };
  },
};

function goalOf(result: RaceResult): GoalResult {
  const goal = `${FULL}: at most ${MOST * 1000} ms longer than ${EMPTY}`;
  const [full, empty] = [FULL, EMPTY].map((name) => medianSeconds(rowOf(result, name)));
  if (full === undefined || empty === undefined || Number.isNaN(full - empty)) {
    return { goal, measured: 'one of both did not run', met: undefined };
  }
  return { goal, measured: `${Math.round((full - empty) * 1000)} ms longer`, met: full - empty <= MOST };
}

function command({ build }: Stage, name: string, args: readonly string[]): Entrant {
  return {
    name,
    how: 'the command with its output in a pipe',
    enter: async () => ({
      async run() {
        await run(build.node, [build.cli, ...args]);
        return undefined;
      },
    }),
  };
}

/** Makes a store with images whose layers have no files. @returns its root */
async function storeOf(stage: Stage, name: string, images: number): Promise<string> {
  const root = join(await folderFor(stage.folder, name), 'store');
  const store = await openSnapshotter({ root, type: 'overlay' });
  try {
    const layer = async (content: string, parent: string): Promise<string> => {
      const chainId = digestOf(`${parent} ${content}`);
      if (await store.has(chainId)) return chainId;
      await store.prepare(`extract-${chainId}`, parent);
      await store.commit(chainId, `extract-${chainId}`, { usage: { bytes: 10e6, inodes: 300 }, synced: true });
      return chainId;
    };
    for (let index = 0; index < images; index += 1) {
      let chainId = await layer(`base ${index % BASES}`, '');
      for (const content of OWN_LAYERS) chainId = await layer(`${content} ${index}`, chainId);
      const [manifestDigest, configDigest] = [digestOf(`manifest ${index}`), digestOf(`config ${index}`)];
      const reference = `registry.example/team-${index % 40}/application-${index}:1.${index}`;
      const documents = new Map([
        [manifestDigest, Buffer.alloc(1500, 'm')],
        [configDigest, Buffer.alloc(5000, 'c')],
      ]);
      const image = {
        reference,
        platform: 'linux/amd64',
        chainId,
        manifestDigest,
        configDigest,
        source: 's3://images',
      };
      await store.recordImage(image, documents);
    }
  } finally {
    await store.close();
  }
  return root;
}

function digestOf(text: string): string {
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}
