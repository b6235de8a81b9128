import { writeFile } from 'node:fs/promises';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { Random } from '../fuzz/random.ts';
import { unlessRefused, writableTree } from './temporary-store.ts';

/**
 * One of several processes that use a store at once: `hammer.ts ROOT TYPE SEED ROUNDS`. It prepares, commits, views and
 * removes snapshots with few names, so that the processes conflict. Refusals are expected; any other error ends the process
 * with 1. Each committed layer holds one file, so that a committed snapshot without its file is noticed.
 */
const [root = '', type = '', seed = '1', rounds = '1'] = process.argv.slice(2);
const NAMES = ['red', 'green', 'blue', 'white'];

const store = await openSnapshotter({ root, type: type === 'native' ? 'native' : 'overlay', durable: false });
const random = new Random(Number(seed));
process.stdout.write('open\n');
for (let round = 0; round < Number(rounds); round += 1) await step(store, `${seed}-${round}`);
await store.close();

async function step(store: Snapshotter, unique: string): Promise<void> {
  const name = random.pick(NAMES);
  const parent = random.pick(['', ...NAMES]);
  switch (random.pick(['layer', 'layer', 'layer', 'remove', 'remove', 'view', 'cleanup', 'same key', 'usage'])) {
    case 'layer': {
      const key = `key-${unique}`;
      const mounts = await unlessRefused(store.prepare(key, parent));
      if (mounts === undefined) return;
      await writeFile(`${writableTree(mounts)}/file`, 'text');
      if ((await unlessRefused(store.commit(name, key, { synced: true }).then(() => true))) !== true)
        await store.remove(key);
      return;
    }
    case 'view':
      if ((await unlessRefused(store.view(`look-${unique}`, parent))) !== undefined)
        await store.remove(`look-${unique}`);
      return;
    case 'same key':
      if ((await unlessRefused(store.prepare('shared', parent))) !== undefined)
        await unlessRefused(store.remove('shared'));
      return;
    case 'remove':
      await unlessRefused(store.remove(name));
      return;
    case 'usage':
      await unlessRefused(store.usage(name));
      return;
    default:
      await store.cleanup();
  }
}
