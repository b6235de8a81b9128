import { randomBytes } from 'node:crypto';
import { connectContainerd } from '../../src/grpc/client.ts';
import { ContainerdLeases } from '../../src/snapshots/containerd/leases.ts';
import { type ContainerdOptions, openContainerdSnapshotter } from '../../src/snapshots/containerd/open.ts';
import { ContainerdSnapshotter } from '../../src/snapshots/containerd/snapshotter.ts';
import { openState } from '../../src/snapshots/containerd/state.ts';
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
  body: (context: TemporaryStore<ContainerdSnapshotter>) => Promise<void>,
  canRebase?: boolean,
): Promise<void> {
  let options: ContainerdOptions | undefined;
  return withOpened(async ({ beside, durable = false }) => {
    options ??= freshOptions(daemon, beside);
    const store = await openContainerdSnapshotter({ ...options, durable });
    return canRebase === undefined ? store : reopened(store, canRebase);
  }, body);
}

/** The same store, but its snapshotter can rebase or cannot. */
async function reopened(store: ContainerdSnapshotter, canRebase: boolean): Promise<ContainerdSnapshotter> {
  const { place, durable } = store;
  const state = await openState(store.state);
  await store.close();
  const client = connectContainerd(place);
  const files = new Leases(state.path);
  const leases = new ContainerdLeases(client, place.snapshotter, state, files);
  return ContainerdSnapshotter.open({ client, place: { ...place, canRebase }, state, durable, files, leases });
}
