import { randomBytes } from 'node:crypto';
import { type ContainerdOptions, openContainerdSnapshotter } from '../../src/snapshots/containerd/open.ts';
import type { ContainerdSnapshotter } from '../../src/snapshots/containerd/snapshotter.ts';
import { type TemporaryStore, withOpened } from '../snapshots/temporary-store.ts';
import type { Daemon } from './daemon.ts';

/** The options of a store in a namespace that no other test uses. */
export function freshOptions({ socket }: Daemon, stateRoot: string): ContainerdOptions {
  const namespace = `test-${randomBytes(4).toString('hex')}`;
  return { socket, namespace, snapshotter: 'overlayfs', stateRoot, durable: false };
}

/** Runs a test in a containerd store of its own. */
export function withContainerdStore(
  daemon: Daemon,
  body: (context: TemporaryStore<ContainerdSnapshotter>) => Promise<void>,
): Promise<void> {
  let options: ContainerdOptions | undefined;
  return withOpened(({ beside, durable = false }) => {
    options ??= freshOptions(daemon, beside);
    return openContainerdSnapshotter({ ...options, durable });
  }, body);
}
