import { unpackAll } from '../support/store-trees.ts';

/**
 * The program that `kills` and `power-cuts` run: `unpacking.ts ROOT TYPE LAYOUT DURABLE SYNC_AFTER TAG…` unpacks these tags. It
 * prints each one after it was committed, and whether its layers are on disk.
 */
const [root = '', type, layout = '', durable, syncAfter, ...tags] = process.argv.slice(2);
process.stdout.write('begin\n');
await unpackAll(root, type === 'native' ? 'native' : 'overlay', layout, tags, {
  durable: durable === 'true',
  syncAfter: Number(syncAfter),
  done: (tag, isDurable) => process.stdout.write(`${tag} ${isDurable}\n`),
});
