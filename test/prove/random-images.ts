import fc from 'fast-check';
import { compareImage, STORES, type StoreType, type Suite, startSuite } from '../conformance/conformance.ts';
import { labelled, truly } from '../conformance/labels.ts';
import { anyImage, archiveOf, describeImage, type RandomImage, withoutAcls } from '../conformance/random-image.ts';
import {
  hasUntoldLinks,
  whiteoutsForContainerd,
  withOpaqueMarkersFirst,
} from '../conformance/whiteouts-for-containerd.ts';
import { skipWithoutContainerd } from '../containerd/daemon.ts';
import type { Proof } from './proof.ts';

/**
 * Messages of containerd for images that it refuses and unpackd accepts. In each case the archive is valid; see
 * test/conformance/README.md.
 */
const CONTAINERD_REFUSES = {
  'a directory was deleted or replaced, below or later in the layer, and containerd looks inside':
    /lstat .*: not a directory/s,
  'a link to nothing or to itself took the place of a directory, whose times containerd sets last':
    /UtimesNanoAt for .*: no such file or directory|too many (links|levels of symbolic links)/s,
};

export const proof: Proof = {
  name: 'random-images',
  describes:
    'random images become the same folders here and in a real containerd, in both stores and in its own overlayfs',
  missing: skipWithoutContainerd,
  async open({ count }) {
    const suite = await startSuite();
    if ('missing' in suite) throw new Error(suite.missing);
    const types = Object.keys(STORES) as StoreType[]; // keys of a literal
    const check = async (image: RandomImage, tell: typeof count): Promise<string[]> => {
      const lines: string[] = [];
      for (const type of types) lines.push(...(await compare(suite, image, type, tell)));
      return lines;
    };
    return {
      // containerd mostly waits for its disk
      atOnce: 6,
      async attempt(seed) {
        const [image = []] = fc.sample(anyImage, parameters(seed));
        const lines = await check(image, count);
        if (lines.length > 0) throw new Error(`${lines.join('\n')}\n\nfor the image\n${describeImage(image)}`);
      },
      async explain(seed) {
        let lines: string[] = [];
        const property = fc.asyncProperty(anyImage, async (image) => {
          const found = await check(image, () => {});
          if (found.length > 0) lines = found;
          return found.length === 0;
        });
        const result = await fc.check(property, { ...parameters(seed), interruptAfterTimeLimit: 60_000 });
        const smallest = result.counterexample?.[0];
        if (smallest === undefined) return 'It was not found again.';
        return `The smallest image that shows it:\n${describeImage(smallest)}\n\n${lines.join('\n')}`;
      },
      [Symbol.asyncDispose]: () => suite.close(),
    };
  },
};

/** Spreads the seeds (last step of MurmurHash3), because fast-check makes similar cases of neighbouring seeds. */
export function parameters(seed: number): { seed: number; numRuns: number } {
  let spread = seed;
  spread = Math.imul(spread ^ (spread >>> 16), 0x85ebca6b);
  spread = Math.imul(spread ^ (spread >>> 13), 0xc2b2ae35);
  return { seed: spread ^ (spread >>> 16), numRuns: 1 };
}

/** A directory that containerd keeps, and that has no place in an image (test/conformance/README.md). */
const AUFS = /^\.wh\.\.wh\.plnk$/;

/** Where a layer deletes a directory that it makes too, the order decides which whiteouts containerd keeps inside. */
const ALLOWED = { leftOut: AUFS, idleMarkers: true };

async function compare(
  suite: Suite,
  drawn: RandomImage,
  type: StoreType,
  count: (what: string) => void,
): Promise<string[]> {
  // a copy by containerd applies default ACLs to the files that it copies
  const image = type === 'native' ? withoutAcls(withOpaqueMarkersFirst(drawn)) : drawn;
  const layers = image.map((layer) => labelled(archiveOf(layer)));
  const toContainerd = whiteoutsForContainerd(image, type);
  if (toContainerd === undefined) {
    count(`${type}: left out, unclear what containerd makes of it`);
    return [];
  }
  const equivalent = toContainerd.map((layer) => truly(archiveOf(layer)));
  const lines = await compareImage(suite, layers, type, equivalent, ALLOWED);
  const [refusal = ''] = lines;
  if (refusal.startsWith('only unpackd refuses')) {
    return compareImage(
      suite,
      layers,
      type,
      image.map((layer) => truly(archiveOf(layer))),
      ALLOWED,
    );
  }
  for (const [reason, text] of Object.entries(CONTAINERD_REFUSES)) {
    if (!refusal.startsWith('only containerd refuses') || !text.test(refusal)) continue;
    count(`${type}: only containerd refuses: ${reason}`);
    return [];
  }
  if (lines.length > 0 && type === 'native' && hasUntoldLinks(image)) {
    count(`${type}: left out, unclear what containerd makes of it`);
    return [];
  }
  count(`${type}: compared`);
  return lines;
}
