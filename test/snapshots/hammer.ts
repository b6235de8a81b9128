import { writeFile } from 'node:fs/promises';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { SnapshotError, type Snapshotter } from '../../src/snapshots/snapshotter.ts';

/**
 * One of several processes that use a store at once: `hammer.ts ROOT TYPE SEED ROUNDS`. It prepares, commits, views and
 * removes snapshots with few names, so that the processes conflict. Refusals are expected; any other error ends the process
 * with 1. Each committed layer holds one file, so that a committed snapshot without its file is noticed.
 */
const [root = '', type = '', seed = '1', rounds = '1'] = process.argv.slice(2);
const NAMES = ['red', 'green', 'blue', 'white'];

const store = await openSnapshotter({ root, type: type === 'native' ? 'native' : 'overlay', durable: false });
let state = Number(seed);
process.stdout.write('open\n');
for (let round = 0; round < Number(rounds); round += 1) await step(store, `${seed}-${round}`);
await store.close();

async function step(store: Snapshotter, unique: string): Promise<void> {
  const name = pick(NAMES);
  const parent = pick(['', ...NAMES]);
  switch (pick(['layer', 'layer', 'layer', 'remove', 'remove', 'view', 'cleanup', 'same key', 'usage'])) {
    case 'layer': {
      const key = `key-${unique}`;
      const mounts = await allowed(store.prepare(key, parent));
      if (mounts === undefined) return;
      const options = mounts[0]?.options ?? [];
      const upper = options.find((option) => option.startsWith('upperdir='))?.slice('upperdir='.length);
      await writeFile(`${upper ?? mounts[0]?.source}/file`, 'text');
      if ((await allowed(store.commit(name, key, { synced: true }).then(() => true))) !== true) await store.remove(key);
      return;
    }
    case 'view':
      if ((await allowed(store.view(`look-${unique}`, parent))) !== undefined) await store.remove(`look-${unique}`);
      return;
    case 'same key':
      if ((await allowed(store.prepare('shared', parent))) !== undefined) await allowed(store.remove('shared'));
      return;
    case 'remove':
      await allowed(store.remove(name));
      return;
    case 'usage':
      await allowed(store.usage(name));
      return;
    default:
      await store.cleanup();
  }
}

async function allowed<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof SnapshotError) return undefined;
    throw error;
  }
}

function pick<T>(choices: readonly [T, ...T[]] | readonly T[]): T {
  // a linear congruential generator (Numerical Recipes): a failure can be repeated with its seed
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  const chosen = choices[(state >>> 8) % choices.length];
  if (chosen === undefined) throw new Error('nothing to choose from');
  return chosen;
}
