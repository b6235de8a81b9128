import { createInterface } from 'node:readline';
import type { createUnpacker as CreateUnpacker } from '../../src/image/unpacker.ts';
import type { openSnapshotter as OpenSnapshotter } from '../../src/snapshots/open.ts';
import { emptyStore } from './removal.ts';

/**
 * Unpacks images as a worker does, without a queue and a bucket; `unpackd-resident.ts` starts it. Each line on stdin is
 * the path of a layout to unpack, and is answered with the milliseconds that this took. An empty line empties the store.
 *
 *     node resident-process.ts BUILD STORE DURABLE THREADS
 */
const [build = '', root = '', durable, threads = '2'] = process.argv.slice(2);
// the compiled files, because the other programs run compiled too
const { createUnpacker }: { createUnpacker: typeof CreateUnpacker } = await import(`${build}/src/image/unpacker.js`);
const { openSnapshotter }: { openSnapshotter: typeof OpenSnapshotter } = await import(`${build}/src/snapshots/open.js`);

const snapshotter = await openSnapshotter({ root, type: 'overlay', durable: durable === 'true' });
const unpacker = createUnpacker(snapshotter, {
  threads: Number(threads),
  apply: {
    limits: { uncompressedBytes: 2 ** 40, entries: 2 ** 40, entryMetadataBytes: 2 ** 20, memoryBytes: 2 ** 29 },
    native: true,
  },
});

process.stdout.write('ready\n');
for await (const path of createInterface({ input: process.stdin })) {
  if (path === '') {
    await emptyStore(snapshotter);
    process.stdout.write('empty\n');
    continue;
  }
  const started = performance.now();
  const source = { kind: 'oci-layout', path } as const;
  const found = await unpacker.lookUp({ image: path, source, request: { target: { kind: 'tag', tag: 'app' } } });
  await unpacker.unpack(found);
  process.stdout.write(`${performance.now() - started}\n`);
}
await unpacker.close();
await snapshotter.close();
process.exit(0);
