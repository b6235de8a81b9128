import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { compareImage, layersOf, PLACES, STORES, type StoreType, type Suite, startSuite } from './conformance.ts';
import type { StoredLayer } from './containerd.ts';

/** The two appliers for one test file. They are stopped after its last test. */
export type Started = { readonly suite: Suite; readonly skip: false } | { readonly skip: string };

/** Starts both for one test file. Without containerd every test is skipped, with the reason. */
export async function started(): Promise<Started> {
  const suite = await startSuite();
  if ('missing' in suite) return { skip: suite.missing };
  after(() => suite.close());
  return { suite, skip: false };
}

/** An image: its archives, bottom-most first. */
export type Image = readonly Buffer[];

export const STORE_TYPES = Object.keys(STORES) as StoreType[]; // keys of a literal

/** One test per image and store: both leave the same folders, or both refuse the image. */
export function bothAgree(
  started: Started,
  title: string,
  images: Readonly<Record<string, Image | (() => Image)>>,
  stores: readonly StoreType[] = STORE_TYPES,
): void {
  describe(title, () => {
    for (const [sentence, image] of Object.entries(images)) {
      it(sentence, { skip: started.skip }, async () => {
        if (started.skip !== false) return;
        const layers = layersOf(typeof image === 'function' ? image() : image);
        await agree(started.suite, layers, layers, stores);
      });
    }
  });
}

/** @param equivalent image for containerd: it leaves the folders that unpackd must leave */
export async function agree(
  suite: Suite,
  layers: readonly StoredLayer[],
  equivalent = layers,
  stores: readonly StoreType[] = STORE_TYPES,
): Promise<void> {
  for (const type of stores) {
    const lines = await compareImage(suite, layers, type, equivalent);
    assert.deepEqual(lines, []);
  }
}

/** One test per image: both refuse it. */
export function bothRefuse(started: Started, title: string, images: Readonly<Record<string, Image>>): void {
  eachRefused(started, `both refuse: ${title}`, images, { containerd: 'refused', unpackd: 'refused' });
}

/** One test per image that only unpackd refuses. */
export function onlyUnpackdRefuses(started: Started, title: string, images: Readonly<Record<string, Image>>): void {
  eachRefused(started, `only unpackd refuses: ${title}`, images, { containerd: 'applied', unpackd: 'refused' });
}

function eachRefused(
  started: Started,
  title: string,
  images: Readonly<Record<string, Image>>,
  expected: Readonly<Record<'containerd' | 'unpackd', string>>,
): void {
  describe(title, () => {
    for (const [sentence, image] of Object.entries(images)) {
      it(sentence, { skip: started.skip }, async () => {
        if (started.skip !== false) return;
        const { containerd, unpackd } = started.suite;
        const layers = layersOf(image);
        for (const type of STORE_TYPES) {
          const theirs = await containerd.apply(layers, STORES[type]);
          for (const place of PLACES[type]) {
            const ours = await unpackd.apply(layers, place);
            const kinds = { containerd: theirs.kind, unpackd: ours.kind };
            const why = [theirs, ours].map((outcome) => (outcome.kind === 'refused' ? outcome.reason : 'applied'));
            assert.deepEqual(kinds, expected, `${place}: ${why.join('; ')}`);
          }
        }
      });
    }
  });
}

/** An image that containerd applies differently, and an equivalent image for containerd (README.md). */
export interface Difference {
  readonly image: Image;
  readonly equivalent: Image;
  /** Stores to test; default: all. */
  readonly stores?: readonly StoreType[];
}

/** One test per image that only containerd refuses: unpackd leaves the folders of the equivalent image. */
export function onlyContainerdRefuses(started: Started, images: Readonly<Record<string, Difference>>): void {
  eachDifferent(started, 'only containerd refuses', images, (lines) =>
    lines.some((line) => line.startsWith('only containerd')),
  );
}

/** One test per image that the two apply differently: unpackd leaves the folders of the equivalent image. */
export function differOnPurpose(started: Started, images: Readonly<Record<string, Difference>>): void {
  eachDifferent(started, 'both take, with different folders', images, (lines) =>
    lines.some((line) => !line.startsWith('only ')),
  );
}

function eachDifferent(
  started: Started,
  title: string,
  images: Readonly<Record<string, Difference>>,
  isExpected: (lines: readonly string[]) => boolean,
): void {
  describe(title, () => {
    for (const [sentence, { image, equivalent, stores = STORE_TYPES }] of Object.entries(images)) {
      it(sentence, { skip: started.skip }, async () => {
        if (started.skip !== false) return;
        for (const type of stores) {
          const lines = await compareImage(started.suite, layersOf(image), type);
          assert.ok(isExpected(lines), `${type}: a difference is gone; what is left is ${lines.join('; ') || 'none'}`);
          assert.deepEqual(await compareImage(started.suite, layersOf(image), type, layersOf(equivalent)), []);
        }
      });
    }
  });
}
