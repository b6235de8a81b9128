import { unpackAll } from '../support/store-trees.ts';

/**
 * The program that `kills` and `power-cuts` run: `unpacking.ts ROOT TYPE LAYOUT DURABLE TAG…` unpacks these tags and prints
 * each one after it was committed.
 */
const [root = '', type, layout = '', durable, ...tags] = process.argv.slice(2);
process.stdout.write('begin\n');
await unpackAll(root, type === 'native' ? 'native' : 'overlay', layout, tags, {
  durable: durable === 'true',
  done: (tag) => process.stdout.write(`${tag}\n`),
});
