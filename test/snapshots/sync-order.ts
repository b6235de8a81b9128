import { writeSync } from 'node:fs';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';
import { SETTINGS } from '../support/apply.ts';

/**
 * Unpacks an image as a worker does, and writes the chain ID of each layer to stdout when it is reported. Started by
 * sync-order.test.ts: `sync-order.ts LAYOUT ROOT overlay|native DURABLE`.
 */
const [path = '', root = '', type, durable] = process.argv.slice(2);
const snapshotter = await openStoreThread({
  root,
  type: type === 'native' ? 'native' : 'overlay',
  durable: durable === 'true',
});
const unpacker = createUnpacker(snapshotter, { threads: 2, apply: SETTINGS });
const wanted = {
  image: 'app',
  source: { kind: 'oci-layout', path },
  request: { target: { kind: 'tag', tag: 'app' } },
} as const;
await unpacker.unpack(await unpacker.lookUp(wanted), {
  log: (_level, sentence, fields) => {
    if (/ applied in /.test(sentence)) writeSync(1, `reported ${fields?.chainId}\n`);
  },
});
await unpacker.close();
await snapshotter.close();
