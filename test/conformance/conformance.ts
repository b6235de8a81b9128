import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { removeWithProcess } from '../support/child.ts';
import { layerOf } from '../support/layout.ts';
import { differences } from './compare.ts';
import {
  type Containerd,
  type Outcome,
  type SnapshotterName,
  type StoredLayer,
  startContainerd,
} from './containerd.ts';
import { type ExactTree, readExactTree } from './exact-tree.ts';
import { type Place, Unpackd } from './unpackd.ts';

/** containerd and unpackd, both started. */
export interface Suite {
  readonly containerd: Containerd;
  readonly unpackd: Unpackd;
  /** Start of the suite, in nanoseconds since 1970. */
  readonly since: bigint;
  close(): Promise<void>;
}

/** Starts both appliers. @returns the reason to skip the tests if this machine can't run them */
export async function startSuite(): Promise<Suite | { readonly missing: string }> {
  // the clock of file times has a resolution of a few milliseconds
  const since = BigInt(Date.now() - 100) * 1_000_000n;
  const containerd = await startContainerd();
  if ('missing' in containerd) return containerd;
  const directory = await mkdtemp(join(tmpdir(), 'unpackd-conformance-'));
  removeWithProcess(directory);
  const unpackd = new Unpackd(directory, containerd.socket);
  return {
    containerd,
    unpackd,
    since,
    async close() {
      await unpackd[Symbol.asyncDispose]();
      await containerd.stop();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

export const STORES = { overlay: 'overlayfs', native: 'native' } as const satisfies Record<string, SnapshotterName>;
export type StoreType = keyof typeof STORES;

/** Uncompressed layers of these archives, bottom-most first. */
export const layersOf = (archives: readonly Buffer[]): StoredLayer[] =>
  archives.map((archive) => layerOf(archive, 'none'));

/** Differences that are allowed. */
export interface Allowed {
  /** Names in the root that only containerd keeps. */
  readonly leftOut?: RegExp;
  /** See `Comparison`. */
  readonly idleMarkers?: boolean;
}

/** Where unpackd must leave the same folders as a snapshotter of containerd: in the overlayfs of containerd itself too. */
export const PLACES = { overlay: ['overlay', 'containerd'], native: ['native'] } as const satisfies Record<
  StoreType,
  readonly Place[]
>;

/**
 * Applies an image with both and compares the folder of every layer. If given, containerd gets the image `equivalent`
 * instead (README.md).
 * @returns the differences, one line each; a single line if only one of the two refused the image
 */
export async function compareImage(
  suite: Suite,
  layers: readonly StoredLayer[],
  type: StoreType,
  equivalent: readonly StoredLayer[] = layers,
  allowed: Allowed = {},
): Promise<string[]> {
  const theirs = await suite.containerd.apply(equivalent, STORES[type]);
  for (const place of PLACES[type]) {
    const ours = await suite.unpackd.apply(layers, place);
    const lines = differencesIn(suite, place, theirs, ours, allowed);
    if (lines.length > 0) return lines;
  }
  return [];
}

function differencesIn(
  { since }: Suite,
  place: Place,
  theirs: Outcome,
  ours: Outcome,
  { leftOut, idleMarkers = false }: Allowed,
): string[] {
  if (theirs.kind === 'refused' || ours.kind === 'refused') return refusals(theirs, ours);
  const lines: string[] = [];
  const lowers: ExactTree[] = [];
  for (const [layer, directory] of ours.directories.entries()) {
    const tree = readExactTree(directory);
    const expected = readExactTree(theirs.directories[layer] ?? '', leftOut);
    const sides = { expected: 'containerd', actual: 'unpackd' };
    const written = place !== 'native';
    const found = differences(expected, tree, { sides, since, lowers, written, idleMarkers });
    lines.push(...found.map((line) => `layer ${layer + 1} of ${ours.directories.length}, ${place}: ${line}`));
    lowers.unshift(tree);
  }
  return lines;
}

function refusals(theirs: Outcome, ours: Outcome): string[] {
  if (theirs.kind === 'refused' && ours.kind === 'refused') {
    // layers are applied in parallel, so an upper layer may be refused before a lower one
    return [];
  }
  if (theirs.kind === 'refused') return [`only containerd refuses layer ${theirs.layer + 1}: ${theirs.reason}`];
  return ours.kind === 'refused' ? [`only unpackd refuses layer ${ours.layer + 1}: ${ours.reason}`] : [];
}
