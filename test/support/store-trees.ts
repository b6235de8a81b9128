import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig, unpackSettings } from '../../src/config.ts';
import { lowerDirectories } from '../../src/diff/target.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { type TestImage, writeLayout } from './layout.ts';
import { type Node, readTree } from './tree.ts';

/** The tree in the directory of each committed snapshot, by the name of the snapshot. */
export type StoreTrees = Record<string, Record<string, Node>>;

/** Nodes whose time is that of the unpacking: the directory `shared`, which has no entry in any layer, and whiteouts. */
const hasTimeOfMaking = (path: string, { type, device }: Node): boolean =>
  path === 'shared' || (type === 'character' && device === '0:0');

/** Reads the trees of all committed snapshots that the store calls usable. A time that depends on the moment of unpacking becomes 0. */
export async function treesOf(snapshotter: Snapshotter): Promise<StoreTrees> {
  const trees: StoreTrees = {};
  for (const { name } of await snapshotter.walk({ kind: 'committed' })) {
    if (!(await snapshotter.has(name))) continue;
    const key = `look ${name}`;
    const [lower = ''] = lowerDirectories(await snapshotter.view(key, name));
    const tree = readTree(lower);
    trees[name] = Object.fromEntries(
      Object.entries(tree).map(([path, node]) => [path, hasTimeOfMaking(path, node) ? { ...node, mtime: 0n } : node]),
    );
    await snapshotter.remove(key);
  }
  return trees;
}

/** The expected trees of images: unpacked in this process without any fault, into a new store. */
export async function referenceTrees(
  images: Readonly<Record<string, TestImage>>,
  type: Snapshotter['type'] = 'overlay',
): Promise<StoreTrees> {
  const directory = await mkdtemp(join(tmpdir(), 'unpackd-reference-'));
  try {
    await writeLayout(join(directory, 'layout'), images);
    await unpackAll(join(directory, 'store'), type, join(directory, 'layout'), Object.keys(images));
    const snapshotter = await openSnapshotter({ root: join(directory, 'store'), type, durable: false });
    try {
      return await treesOf(snapshotter);
    } finally {
      await snapshotter.close();
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/**
 * Unpacks tags of a layout into a store, one after the other.
 * @param options `done` gets each tag, and whether its layers are on disk; `syncAfter`: after so many tags, the store syncs
 *   what it has, and `done` gets these tags again
 */
export async function unpackAll(
  root: string,
  type: Snapshotter['type'],
  layout: string,
  tags: readonly string[],
  { durable = false, syncAfter = 0, done = (_tag: string, _isDurable: boolean): void => {} } = {},
): Promise<void> {
  const snapshotter = await openSnapshotter({ root, type, durable });
  const unpacker = createUnpacker(snapshotter, { ...unpackSettings(loadConfig({}, {})), threads: 2 });
  const unpack = async (tag: string) => {
    const source = { kind: 'oci-layout', path: layout } as const;
    const found = await unpacker.lookUp({ image: tag, source, request: { target: { kind: 'tag', tag } } });
    const images = await unpacker.unpack(found);
    done(
      tag,
      images.every((image) => image.durable),
    );
  };
  try {
    for (const [index, tag] of tags.entries()) {
      await unpack(tag);
      if (index + 1 !== syncAfter) continue;
      await snapshotter.sync();
      for (const each of tags.slice(0, syncAfter)) await unpack(each);
    }
  } finally {
    await unpacker.close();
    await snapshotter.close();
  }
}
