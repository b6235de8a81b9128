import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { compareImage, layersOf, STORES, type StoreType, type Suite, startSuite } from './conformance.ts';
import type { StoredLayer } from './containerd.ts';

/** What a test file of the suite gets: both appliers, which end with the file's last test. */
export type Started = { readonly suite: Suite; readonly skip: false } | { readonly skip: string };

/** Starts both for one test file. Where there is no containerd every test is skipped, and says why. */
export async function started(): Promise<Started> {
  const suite = await startSuite();
  if ('missing' in suite) return { skip: suite.missing };
  after(() => suite.close());
  return { suite, skip: false };
}

/** An image: its archives, bottom-most first. */
export type Image = readonly Buffer[];

export const STORE_TYPES = Object.keys(STORES) as StoreType[]; // keys of a literal

/** A test for each image and store: both leave the same folders, or both refuse. */
export function bothAgree(
  started: Started,
  title: string,
  images: Readonly<Record<string, Image | (() => Image)>>,
): void {
  describe(title, () => {
    for (const [sentence, image] of Object.entries(images)) {
      it(sentence, { skip: started.skip }, async () => {
        if (started.skip !== false) return;
        const layers = layersOf(typeof image === 'function' ? image() : image);
        await agree(started.suite, layers);
      });
    }
  });
}

/** @param equivalent what containerd gets instead, to leave what unpackd must leave */
export async function agree(suite: Suite, layers: readonly StoredLayer[], equivalent = layers): Promise<void> {
  for (const type of STORE_TYPES) {
    const lines = await compareImage(suite, layers, type, equivalent);
    assert.deepEqual(lines, []);
  }
}
