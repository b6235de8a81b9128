import { createInterface } from 'node:readline';
import type { createUnpacker as CreateUnpacker } from '../../src/image/unpacker.ts';
import type { openSnapshotter as OpenSnapshotter } from '../../src/snapshots/open.ts';

/**
 * A worker without its queue, for images that no bucket has: started once, then told by lines on stdin what to unpack.
 * Each line is a path to a layout; the answer is the milliseconds it took, and the store is emptied before the next.
 *
 *     node resident-process.ts BUILD STORE DURABLE THREADS
 */
const [build = '', root = '', durable, threads = '2'] = process.argv.slice(2);
// what was compiled, not the sources beside this file: the programs that are compared run compiled too
const { createUnpacker }: { createUnpacker: typeof CreateUnpacker } = await import(`${build}/src/image/unpacker.js`);
const { openSnapshotter }: { openSnapshotter: typeof OpenSnapshotter } = await import(`${build}/src/snapshots/open.js`);

const snapshotter = await openSnapshotter({ root, type: 'overlay' });
const unpacker = createUnpacker(snapshotter, {
  threads: Number(threads),
  durable: durable === 'true',
  apply: {
    limits: { uncompressedBytes: 2 ** 40, entries: 2 ** 40, entryMetadataBytes: 2 ** 20, rememberedBytes: 2 ** 29 },
    native: true,
  },
});

async function empty(): Promise<void> {
  let left = await snapshotter.walk();
  while (left.length > 0) {
    const parents = new Set(left.map(({ parent }) => parent));
    for (const { name } of left) if (!parents.has(name)) await snapshotter.remove(name);
    left = await snapshotter.walk();
  }
  await snapshotter.cleanup();
}

process.stdout.write('ready\n');
for await (const path of createInterface({ input: process.stdin })) {
  if (path === '') {
    await empty();
    process.stdout.write('empty\n');
    continue;
  }
  const started = performance.now();
  const found = await unpacker.lookUp({ kind: 'oci-layout', path }, { target: { kind: 'tag', tag: 'app' } });
  await unpacker.unpack(found);
  process.stdout.write(`${performance.now() - started}\n`);
}
await unpacker.close();
await snapshotter.close();
process.exit(0);
