import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, it } from 'node:test';
import fc from 'fast-check';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { differences } from './compare.ts';
import { layersOf } from './conformance.ts';
import type { StoredLayer } from './containerd.ts';
import { type ExactTree, readExactTree } from './exact-tree.ts';
import {
  anyImage,
  archiveOf,
  asBuildersWrite,
  asMinimalistsWrite,
  describeImage,
  type RandomImage,
  withoutLinks,
} from './random-image.ts';
import { type Schedule, Unpackd } from './unpackd.ts';

/** This needs no containerd, only a place where overlayfs can be mounted. */
const skip = process.getuid?.() === 0 ? false : 'mounts need root';
const RUNS = Number(process.env.CONFORMANCE_RUNS ?? 100);
/** In CI always the same, so that a change is judged by itself; by hand always others, which is how more is found. */
const SEED = Number(
  process.env.CONFORMANCE_SEED ?? (process.env.CI ? 20_261_123 : Math.floor(Math.random() * 2 ** 31)),
);
const NOW = BigInt(Date.now() - 100) * 1_000_000n;

const directory = await mkdtemp(join(tmpdir(), 'unpackd-schedules-'));
const unpackd = new Unpackd(directory);
after(async () => {
  await unpackd[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

/** Holds for random images, or fails with the smallest one that it doesn't hold for. */
function holds(
  sentence: string,
  images: fc.Arbitrary<RandomImage>,
  check: (layers: StoredLayer[]) => Promise<string[]>,
) {
  it(sentence, { skip }, async (test) => {
    let checked = 0;
    const property = fc.asyncProperty(images, async (image) => {
      checked++;
      const lines = await check(layersOf(image.map(archiveOf)));
      assert.deepEqual(lines, [], describeImage(image));
    });
    await fc.assert(property, { seed: SEED, numRuns: RUNS, interruptAfterTimeLimit: RUNS * 2000 });
    test.diagnostic(`CONFORMANCE_SEED=${SEED} CONFORMANCE_RUNS=${RUNS}: ${checked} images`);
  });
}

for (const schedule of ['sequential', 'shuffled'] as const satisfies Schedule[]) {
  holds(`layers applied in parallel become what they become when ${schedule}`, anyImage, async (layers) => {
    const [one, other] = [
      await unpackd.apply(layers, 'overlay', 'parallel'),
      await unpackd.apply(layers, 'overlay', schedule),
    ];
    if (one.kind === 'refused' || other.kind === 'refused') {
      return one.kind === other.kind ? [] : [`parallel: ${one.kind}, ${schedule}: ${other.kind}`];
    }
    const sides = { expected: schedule, actual: 'parallel' };
    return one.directories.flatMap((path, index) => {
      const [wanted, found] = [readExactTree(other.directories[index] ?? ''), readExactTree(path)];
      return differences(wanted, found, { sides, since: NOW, written: true });
    });
  });
}

// Where a name is given twice in one layer, an overlay and a full copy differ, those of containerd too. So this holds for
// layers as builders write them, and for such as name no directory without need, without links on the way.
const shownAlike = async (layers: StoredLayer[]): Promise<string[]> => {
  const [overlay, native] = [await unpackd.apply(layers, 'overlay'), await unpackd.apply(layers, 'native')];
  // a hard link to what only a layer below holds is possible in a full copy
  if (overlay.kind === 'refused') return [];
  // a full copy has the file of the layer below where the directory is needed, as containerd's does
  if (native.kind === 'refused' && native.reason.includes('a file is in the way of a directory')) return [];
  if (native.kind === 'refused') return [`only the native store refuses: ${native.reason}`];
  const whole = readExactTree(native.directories.at(-1) ?? '');
  const merged = await mounted(layers);
  return differences(whole, merged, { sides: { expected: 'native', actual: 'overlay' }, since: NOW, written: false });
};
holds('the mounted overlay shows what the native store holds', withoutLinks.map(asBuildersWrite), shownAlike);
holds(
  'the same where directories are not named before they are needed',
  withoutLinks.map(asMinimalistsWrite),
  shownAlike,
);

async function mounted(layers: readonly StoredLayer[]): Promise<ExactTree> {
  const target = await mkdtemp(join(directory, 'mounted-'));
  return unpackd.view(layers, async (mounts) => {
    await mountSnapshot(mounts, target);
    try {
      return readExactTree(target);
    } finally {
      await unmountSnapshot(target);
    }
  });
}
