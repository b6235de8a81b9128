import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Mount } from '../../src/snapshots/snapshotter.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { Random } from '../fuzz/random.ts';
import { unlessRefused, writableTree } from './temporary-store.ts';

/**
 * One of several processes that unpack, mount and remove the same snapshots at once: `removal-race.ts ROOT BESIDE SEED ROUNDS`,
 * in a mount namespace of its own. It ends with an error when something that it has leased or mounted disappears. Refusals are
 * expected.
 */
const [root = '', beside = '', seed = '1', rounds = '1'] = process.argv.slice(2);
/** Each snapshot stands on the one before; each has a file of its own name with that name as its content. */
const CHAINS = [
  ['one', 'two', 'three'],
  ['one', 'two', 'other'],
  ['alone', 'on it'],
] as const;

const random = new Random(Number(seed));
const store = await openSnapshotter({ root, type: 'overlay' });
const at = mkdtempSync(join(beside, 'at-'));
process.stdout.write('open\n');
for (let round = 0; round < Number(rounds); round += 1) await step(`${seed}-${round}`);
await store.close();

async function step(unique: string): Promise<void> {
  const chain = random.pick(CHAINS);
  switch (random.pick(['job', 'job', 'remove', 'remove', 'remove', 'mount', 'mount at once', 'cleanup'] as const)) {
    case 'job':
      return job(chain, unique);
    case 'remove':
      await unlessRefused(store.remove(random.pick(chain)));
      return;
    case 'mount':
      return mount(chain, unique, false);
    case 'mount at once':
      return mount(chain, unique, true);
    case 'cleanup':
      await store.cleanup();
  }
}

/** Leases a chain, makes what is missing, and checks that all of it stays until the end of the lease. */
async function job(chain: readonly string[], unique: string): Promise<void> {
  await using _lease = await store.lease(chain, { job: unique });
  for (const [index, name] of chain.entries()) {
    const key = `extract-${unique}-${index}`;
    while (!(await store.has(name))) {
      const mounts = await store.prepare(key, chain[index - 1] ?? '');
      writeFileSync(join(writableTree(mounts), name), name);
      if ((await unlessRefused(store.commit(name, key, { synced: true }).then(() => true))) === undefined)
        await store.remove(key);
    }
  }
  await sleep(random.below(20));
  for (const name of chain) assert.ok(await store.has(name), `${name} was removed although it is leased`);
  const key = `look-${unique}`;
  const mounts = await store.view(key, chain.at(-1) ?? '');
  for (const [index, tree] of lower(mounts).entries()) has(tree, chain.at(-1 - index) ?? '', 'leased');
  await store.remove(key);
}

/**
 * Mounts the top of a chain, and checks that its files stay as long as it is mounted.
 * @param atOnce the view that keeps the snapshot ends before the mount, which may then fail
 */
async function mount(chain: readonly string[], unique: string, atOnce: boolean): Promise<void> {
  const top = chain.at(-1) ?? '';
  const key = `mount-${unique}`;
  const mounts = await unlessRefused(store.view(key, top));
  if (mounts === undefined) return;
  if (atOnce) await store.remove(key);
  try {
    await mountSnapshot(mounts, at);
  } catch (error) {
    if (!atOnce) throw error;
    return;
  }
  if (!atOnce) await store.remove(key);
  const end = performance.now() + random.below(100);
  do {
    for (const name of chain) has(at, name, 'mounted');
    await sleep(5);
  } while (performance.now() < end);
  await unmountSnapshot(at);
}

function has(tree: string, name: string, how: string): void {
  try {
    assert.equal(readFileSync(join(tree, name), 'utf8'), name);
  } catch (error) {
    throw new Error(`${name} has disappeared although it is ${how}`, { cause: error });
  }
}

function lower([mount]: readonly Mount[]): string[] {
  const option = mount?.options.find((each) => each.startsWith('lowerdir='));
  return option?.slice('lowerdir='.length).split(':') ?? [mount?.source ?? ''];
}
