import { unpackAll } from '../support/store-trees.ts';

/**
 * A process to be killed, or whose disk is to lose its power: `unpacking.ts ROOT TYPE LAYOUT DURABLE TAG…` unpacks
 * these tags and writes a line for each that is committed.
 */
const [root = '', type, layout = '', durable, ...tags] = process.argv.slice(2);
process.stdout.write('begin\n');
await unpackAll(root, type === 'native' ? 'native' : 'overlay', layout, tags, {
  durable: durable === 'true',
  done: (tag) => process.stdout.write(`${tag}\n`),
});
