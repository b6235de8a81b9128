import { resolve } from 'node:path';
import { isMissing } from '../../errno.ts';
import { UnpackError } from '../../errors.ts';
import { connectContainerd } from '../../grpc/client.ts';
import { privileges } from '../../system/privileges.ts';
import { Leases } from '../leases.ts';
import type { StoreReader } from '../store.ts';
import { converted } from './errors.ts';
import { ContainerdLeases } from './leases.ts';
import { Opened } from './opened.ts';
import { type ContainerdAddress, findSnapshotter } from './plugin.ts';
import { probeSnapshotter } from './probe.ts';
import { openState, stateId, statePath } from './state.ts';
import { ContainerdStore } from './store.ts';

/** Opens the store in a containerd. */

export interface ContainerdOptions extends ContainerdAddress {
  /** The directory of this program's own files (UNPACK_ROOT). Those for containerd lie below `containerd` in it. */
  readonly stateRoot: string;
  /** As in StoreOptions. */
  readonly durable?: boolean;
}

/**
 * Opens the store to write layers, and makes the state directory if it is missing.
 * @throws UnpackError STORE_FAILED if containerd does not answer, or this process cannot write into its snapshots; STORE_FULL
 */
export async function openContainerdStore(options: ContainerdOptions): Promise<ContainerdStore> {
  const { namespace, snapshotter, durable = true } = options;
  const socket = resolve(options.socket);
  requireOwners();
  const client = connectContainerd({ socket, namespace });
  try {
    const { root, capabilities } = await findSnapshotter(client, { socket, snapshotter });
    const state = await openState(statePath(resolve(options.stateRoot), { namespace, snapshotter, dataRoot: root }));
    const files = new Leases(state.path);
    const leases = new ContainerdLeases(client, snapshotter, state, files);
    const place = { socket, namespace, snapshotter, root, canRebase: capabilities.includes('rebase') };
    const overlayXattrs = await converted(socket, async () => {
      await using lease = await leases.take([], {});
      return await probeSnapshotter(client, place, state, lease);
    });
    const parts = { client, place: { ...place, overlayXattrs }, state, durable, files, leases };
    return new ContainerdStore(new Opened(parts));
  } catch (error) {
    client.close();
    throw error;
  }
}

/**
 * Opens the store for calls that change nothing: nothing is tried or made, neither in containerd nor here.
 * @throws UnpackError STORE_FAILED if containerd does not answer, or its snapshotter's directory is not here
 */
export async function openContainerdToRead(options: ContainerdOptions): Promise<StoreReader> {
  const { namespace, snapshotter } = options;
  const socket = resolve(options.socket);
  const client = connectContainerd({ socket, namespace });
  try {
    const { root } = await findSnapshotter(client, { socket, snapshotter });
    const path = statePath(resolve(options.stateRoot), { namespace, snapshotter, dataRoot: root });
    // without the directory, this program has made nothing there
    const state = { path, id: stateId(path) ?? NO_ID };
    const files = new Leases(path);
    const leases = new ContainerdLeases(client, snapshotter, state, files);
    const place = { socket, namespace, snapshotter, root, canRebase: false, overlayXattrs: 'trusted' } as const;
    return new ContainerdStore(new Opened({ client, place, state, durable: false, files, leases }));
  } catch (error) {
    client.close();
    throw isMissing(error) ? notHere(socket, error) : error;
  }
}

/** No state directory has it. */
const NO_ID = 'none';

function notHere(socket: string, cause: unknown): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `the snapshots of containerd at ${socket} are not here: mount its root at the same path, from the same file system`,
    { cause },
  );
}

/** @throws UnpackError STORE_FAILED if this process cannot give files to the owners that an image names */
function requireOwners(): void {
  const { user, cannotKeepOwners } = privileges();
  if (cannotKeepOwners === undefined) return;
  throw new UnpackError(
    'STORE_FAILED',
    `${user} can't give files to the owners that images name (${cannotKeepOwners}), which layers for containerd need: run as root`,
  );
}
