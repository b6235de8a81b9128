import { openSnapshotter } from '../../src/snapshots/open.ts';
import { isSnapshotError } from '../../src/snapshots/snapshotter.ts';

/**
 * Prints, as JSON, what a process sees of committed snapshots: `look.ts ROOT NAME…`. Each name becomes [has, suspect, whether a
 * view can be made]. Started by unsynced.test.ts in another mount namespace.
 */
const [root = '', ...names] = process.argv.slice(2);
const store = await openSnapshotter({ root, type: 'overlay', durable: false });
const seen: Record<string, readonly boolean[]> = {};
for (const name of names) {
  const key = `look ${name}`;
  const viewed = await store.view(key, name).then(
    () => true,
    (error: unknown) => {
      if (isSnapshotError(error, 'NotFound')) return false;
      throw error;
    },
  );
  if (viewed) await store.remove(key);
  seen[name] = [await store.has(name), (await store.stat(name)).suspect === true, viewed];
}
await store.close();
process.stdout.write(JSON.stringify(seen));
