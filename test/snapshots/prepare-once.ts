import { openSnapshotter } from '../../src/snapshots/open.ts';

/** `prepare-once.ts ROOT KEY PARENT`: prepares one native snapshot. */
const [root = '', key = '', parent = ''] = process.argv.slice(2);
const store = await openSnapshotter({ root, type: 'native', durable: false });
await store.prepare(key, parent);
await store.close();
