import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { differences } from '../conformance/compare.ts';
import { layersOf } from '../conformance/conformance.ts';
import type { StoredLayer } from '../conformance/containerd.ts';
import { type ExactTree, readExactTree } from '../conformance/exact-tree.ts';
import {
  anyImage,
  archiveOf,
  asBuildersWrite,
  asMinimalistsWrite,
  describeImage,
  type RandomImage,
  withoutLinks,
} from '../conformance/random-image.ts';
import { type Schedule, Unpackd } from '../conformance/unpackd.ts';
import { removeWithProcess } from '../support/child.ts';
import type { Proof } from './proof.ts';
import { parameters } from './random-images.ts';

/** The checks for images of one kind. */
interface Rule {
  readonly sentence: string;
  readonly images: fc.Arbitrary<RandomImage>;
  readonly differences: (layers: readonly StoredLayer[]) => Promise<string[]>;
}

/** This needs no containerd, only a folder where overlayfs can be mounted. */
export const proof: Proof = {
  name: 'schedules',
  describes:
    'layers become the same in parallel, one by one and in any order, and a mounted overlay shows what the native store holds',
  missing: () => (process.getuid?.() === 0 ? false : 'mounts need root'),
  async open({ count }) {
    const directory = await mkdtemp(join(tmpdir(), 'unpackd-schedules-'));
    removeWithProcess(directory);
    const unpackd = new Unpackd(directory);
    const rules = rulesOf(unpackd, directory);
    const ruleOf = (seed: number): Rule => rules[seed % rules.length] ?? (rules[0] as Rule); // there are some
    return {
      async attempt(seed) {
        const rule = ruleOf(seed);
        const [image = []] = fc.sample(rule.images, parameters(seed));
        const lines = await rule.differences(layersOf(image.map(archiveOf)));
        if (lines.length > 0) throw new Error(`${rule.sentence}\n${lines.join('\n')}\n${describeImage(image)}`);
        count(rule.sentence);
      },
      async explain(seed) {
        const rule = ruleOf(seed);
        const property = fc.asyncProperty(rule.images, async (image) => {
          return (await rule.differences(layersOf(image.map(archiveOf)))).length === 0;
        });
        const result = await fc.check(property, { ...parameters(seed), interruptAfterTimeLimit: 60_000 });
        const smallest = result.counterexample?.[0];
        if (smallest === undefined) return 'It was not found again.';
        return `The smallest image that shows it:\n${describeImage(smallest)}`;
      },
      async [Symbol.asyncDispose]() {
        await unpackd[Symbol.asyncDispose]();
        await rm(directory, { recursive: true, force: true });
      },
    };
  },
};

function rulesOf(unpackd: Unpackd, directory: string): readonly Rule[] {
  const since = BigInt(Date.now() - 100) * 1_000_000n;

  const asInParallel = (schedule: Schedule) => async (layers: readonly StoredLayer[]) => {
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
      return differences(wanted, found, { sides, since, written: true });
    });
  };

  // Where a name is given twice in one layer, an overlay and a full copy differ, those of containerd too. So this holds for
  // layers as builders write them, and for such as name no directory without need, without links on the way.
  const shownAlike = async (layers: readonly StoredLayer[]): Promise<string[]> => {
    const [overlay, native] = [await unpackd.apply(layers, 'overlay'), await unpackd.apply(layers, 'native')];
    // a hard link to what only a layer below holds is possible in a full copy
    if (overlay.kind === 'refused') return [];
    // a full copy has the file of the layer below where the directory is needed, as containerd's does
    if (native.kind === 'refused' && native.reason.includes('a file is in the way of a directory')) return [];
    if (native.kind === 'refused') return [`only the native store refuses: ${native.reason}`];
    const whole = readExactTree(native.directories.at(-1) ?? '');
    const merged = await mounted(layers);
    return differences(whole, merged, { sides: { expected: 'native', actual: 'overlay' }, since, written: false });
  };

  const mounted = async (layers: readonly StoredLayer[]): Promise<ExactTree> => {
    const target = await mkdtemp(join(directory, 'mounted-'));
    return unpackd.view(layers, async (mounts) => {
      await mountSnapshot(mounts, target);
      try {
        return readExactTree(target);
      } finally {
        await unmountSnapshot(target);
      }
    });
  };

  return [
    {
      sentence: 'layers applied in parallel become what they become one by one',
      images: anyImage,
      differences: asInParallel('sequential'),
    },
    {
      sentence: 'layers applied in parallel become what they become when they end in any order',
      images: anyImage,
      differences: asInParallel('shuffled'),
    },
    {
      sentence: 'the mounted overlay shows what the native store holds',
      images: withoutLinks.map(asBuildersWrite),
      differences: shownAlike,
    },
    {
      sentence: 'the same where directories are not named before they are needed',
      images: withoutLinks.map(asMinimalistsWrite),
      differences: shownAlike,
    },
  ];
}
