import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { started } from './agreement.ts';
import { compareImage, layersOf, STORES, type StoreType, type Suite } from './conformance.ts';
import { anyImage, archiveOf, describeImage, type RandomImage, withoutAcls } from './random-image.ts';
import { hasUntoldLinks, whiteoutsForContainerd, withOpaqueMarkersFirst } from './whiteouts-for-containerd.ts';

/** How many images at once: containerd waits for its disk most of the time. */
const AT_ONCE = 6;
const RUNS = Number(process.env.CONFORMANCE_RUNS ?? 200);
/** In CI always the same, so that a change is judged by itself; by hand always others, which is how more is found. */
const SEED = Number(
  process.env.CONFORMANCE_SEED ?? (process.env.CI ? 20_261_123 : Math.floor(Math.random() * 2 ** 31)),
);

/**
 * Images that containerd refuses and unpackd takes, by what containerd says. All are its own trouble with a sensible
 * archive; see README.md.
 */
const CONTAINERD_REFUSES = {
  'a directory was deleted or replaced, below or later in the layer, and containerd looks inside':
    /lstat .*: not a directory/s,
  'a link to nothing or to itself took the place of a directory, whose times containerd sets last':
    /UtimesNanoAt for .*: no such file or directory|too many (links|levels of symbolic links)/s,
};

const running = await started();

for (const type of Object.keys(STORES) as StoreType[]) {
  // keys of a literal
  it(`random images become the same folders, ${type}`, { skip: running.skip }, async (test) => {
    if (running.skip !== false) return;
    const { suite } = running;
    const seen = { compared: 0, ...tally() };
    const check = async (image: RandomImage): Promise<string[]> => compare(suite, image, type, seen);
    const images = fc.sample(anyImage, { seed: SEED, numRuns: RUNS });
    const failed = await firstFailure(images, check);
    const beside = `beside containerd ${suite.containerd.version}`;
    test.diagnostic(`CONFORMANCE_SEED=${SEED} CONFORMANCE_RUNS=${RUNS} ${beside}: ${JSON.stringify(seen)}`);
    if (failed === undefined) return;
    await shrink(failed, check);
  });
}

const tally = (): Record<string, number> =>
  Object.fromEntries(Object.keys(CONTAINERD_REFUSES).map((reason) => [reason, 0]));

async function compare(
  suite: Suite,
  drawn: RandomImage,
  type: StoreType,
  seen: Record<string, number>,
): Promise<string[]> {
  // containerd's own copies pass default ACLs on to what they copy
  const image = type === 'native' ? withoutAcls(withOpaqueMarkersFirst(drawn)) : drawn;
  const layers = layersOf(image.map(archiveOf));
  const toContainerd = whiteoutsForContainerd(image, type);
  if (toContainerd === undefined) {
    seen.unclear = (seen.unclear ?? 0) + 1;
    return [];
  }
  const equivalent = layersOf(toContainerd.map(archiveOf));
  const lines = await compareImage(suite, layers, type, equivalent);
  const [refusal = ''] = lines;
  if (refusal.startsWith('only unpackd refuses')) return compareImage(suite, layers, type);
  for (const [reason, text] of Object.entries(CONTAINERD_REFUSES)) {
    if (!refusal.startsWith('only containerd refuses') || !text.test(refusal)) continue;
    seen[reason] = (seen[reason] ?? 0) + 1;
    return [];
  }
  if (lines.length > 0 && type === 'native' && hasUntoldLinks(image)) {
    seen.unclear = (seen.unclear ?? 0) + 1;
    return [];
  }
  seen.compared = (seen.compared ?? 0) + 1;
  return lines;
}

/** The index of the first image that comes out different. */
async function firstFailure(
  images: readonly RandomImage[],
  check: (image: RandomImage) => Promise<string[]>,
): Promise<number | undefined> {
  let next = 0;
  let failed: number | undefined;
  const worker = async (): Promise<void> => {
    while (next < images.length && failed === undefined) {
      const index = next++;
      if ((await check(images[index] ?? [])).length > 0) failed = Math.min(index, failed ?? index);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return failed;
}

/** Fails with the smallest image that still comes out different. */
async function shrink(index: number, check: (image: RandomImage) => Promise<string[]>): Promise<never> {
  let lines: string[] = [];
  const property = fc.asyncProperty(anyImage, async (image) => {
    const found = await check(image);
    if (found.length > 0) lines = found;
    return found.length === 0;
  });
  const result = await fc.check(property, {
    seed: SEED,
    path: String(index),
    numRuns: 1,
    interruptAfterTimeLimit: 60_000,
  });
  const smallest = result.counterexample?.[0];
  assert.fail(
    `${lines.join('\n')}\n\nfor the image\n${smallest === undefined ? '(not found again)' : describeImage(smallest)}\n\nCONFORMANCE_SEED=${SEED}, image ${index}`,
  );
}
