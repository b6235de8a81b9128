import { randomBytes } from 'node:crypto';
import { connectContainerd } from '../../src/grpc/client.ts';
import { ContainerdLeases } from '../../src/snapshots/containerd/leases.ts';
import { type ContainerdOptions, openContainerdStore } from '../../src/snapshots/containerd/open.ts';
import { Opened } from '../../src/snapshots/containerd/opened.ts';
import { openState } from '../../src/snapshots/containerd/state.ts';
import { ContainerdStore } from '../../src/snapshots/containerd/store.ts';
import { Leases } from '../../src/snapshots/leases.ts';
import { type TemporaryStore, withOpened } from '../snapshots/temporary-store.ts';
import type { Daemon } from './daemon.ts';

/** The options of a store in a namespace that no other test uses. */
export function freshOptions({ socket }: Daemon, stateRoot: string): ContainerdOptions {
  const namespace = `test-${randomBytes(4).toString('hex')}`;
  return { socket, namespace, snapshotter: 'overlayfs', stateRoot, durable: false };
}

/**
 * Runs a test in a containerd store of its own.
 * @param canRebase what the store takes containerd's snapshotter for; default: what its capabilities say
 */
export function withContainerdStore(
  daemon: Daemon,
  body: (context: TemporaryStore<ContainerdStore>) => Promise<void>,
  canRebase?: boolean,
): Promise<void> {
  let options: ContainerdOptions | undefined;
  return withOpened(async ({ beside, durable = false }) => {
    options ??= freshOptions(daemon, beside);
    const store = await openContainerdStore({ ...options, durable });
    return canRebase === undefined ? store : reopened(store, canRebase);
  }, body);
}

/** The same store, but its snapshotter can rebase or cannot. */
async function reopened(store: ContainerdStore, canRebase: boolean): Promise<ContainerdStore> {
  const { place, durable } = store;
  const state = await openState(store.state);
  await store.close();
  const client = connectContainerd(place);
  const files = new Leases(state.path);
  const leases = new ContainerdLeases(client, place.snapshotter, state, files);
  return new ContainerdStore(new Opened({ client, place: { ...place, canRebase }, state, durable, files, leases }));
}
