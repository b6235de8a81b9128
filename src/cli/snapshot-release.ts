import { whoServes } from '../proxy/store-lock.ts';
import { isOwnStore, type Store } from '../snapshots/store.ts';
import { count } from '../units.ts';
import { CliError } from './explain-error.ts';
import { findSnapshot } from './find-snapshot.ts';
import type { Cli } from './output.ts';

/** `unpackd snapshots release`: ends the claims of a containerd that will not end them itself. */

/**
 * @param keys none: all snapshots that containerd has claimed
 * @throws CliError SNAPSHOT_IN_USE if the store is served, or one of them is mounted, because its containerd is there
 */
export async function releaseSnapshots(store: Store, keys: readonly string[], { out, signal }: Cli): Promise<void> {
  if (!isOwnStore(store)) throw new CliError('USAGE', 'only a store of our own has claims');
  const server = whoServes(store.root);
  if (server !== undefined) {
    throw new CliError(
      'SNAPSHOT_IN_USE',
      `${server} serves ${store.root} to containerd, which would lose its snapshots: stop it first if that containerd is gone for ever`,
    );
  }
  const all = await store.walk();
  const wanted = new Set<string>();
  for (const key of keys) wanted.add((await findSnapshot(store, key)).name);
  const claimed = all.filter(({ name, claim }) => claim !== undefined && (keys.length === 0 || wanted.has(name)));
  const { places, unseen } = await store.mounted();
  if (unseen !== undefined) throw new CliError('MOUNTS_UNSEEN', `containers may run: ${unseen}`);
  for (const { name } of claimed) {
    const place = places.get(name);
    if (place === undefined) continue;
    const where = `${place.point}, as process ${place.process} sees it`;
    throw new CliError(
      'SNAPSHOT_IN_USE',
      `${name} is mounted at ${where}: end the containers, and let containerd remove them`,
    );
  }
  const parents = new Map(all.map(({ name, parent }) => [name, parent]));
  const depth = (name: string): number => {
    let below = 0;
    for (let at = parents.get(name); at !== undefined && at !== ''; at = parents.get(at)) below += 1;
    return below;
  };
  // a claimed snapshot keeps those below it
  const order = claimed.map((info) => ({ ...info, depth: depth(info.name) })).sort((a, b) => b.depth - a.depth);
  const removed: string[] = [];
  const released: string[] = [];
  for (const { name, claim } of order) {
    signal.throwIfAborted();
    await store.release(name);
    (claim === 'made' ? removed : released).push(name);
  }
  out.result({ removed, released }, () => [
    `removed ${count(removed.length, 'snapshot')} of containerd, and released ${count(released.length, 'layer')}`,
  ]);
}
