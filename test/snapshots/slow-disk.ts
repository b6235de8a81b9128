import { openSnapshotter } from '../../src/snapshots/open.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';

/**
 * Uses a store and prints as JSON: the longest time the event loop was blocked, in milliseconds, and how many lookups of a
 * committed name were answered. Started by slow-disk.test.ts: `slow-disk.ts ROOT thread|here`.
 */
const [root = '', where] = process.argv.slice(2);
const options = { root, type: 'overlay', durable: false } as const;
const store = await (where === 'thread' ? openStoreThread(options) : openSnapshotter(options));

let last = performance.now();
let longest = 0;
let looks = 0;
const watch = () => {
  longest = Math.max(longest, performance.now() - last);
  last = performance.now();
};
const timer = setInterval(() => {
  watch();
  void store.has('base').then((there) => {
    if (there) looks++;
  });
}, 10);
await store.prepare('key', 'base');
const before = looks;
await store.commit('name', 'key');
watch();
clearInterval(timer);
await store.close();
console.log(JSON.stringify({ longest, looks: looks - before }));
