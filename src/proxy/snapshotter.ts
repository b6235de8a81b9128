import { UnpackError } from '../errors.ts';
import { loadService } from '../grpc/definitions.ts';
import { type RunningServer, serve } from '../grpc/server.ts';
import type { Snapshots } from '../grpc/services.ts';
import type { Log } from '../rootfs/applier.ts';
import { StoreSync } from '../rootfs/durability.ts';
import type { OwnStore } from '../snapshots/store.ts';
import { failureOf } from './failure.ts';
import { SnapshotsService } from './snapshots.ts';

/** Serves a store to containerd as a proxy snapshotter. `unpackd snapshotter` and a worker call it. */

export interface ServedSnapshotter {
  readonly socket: string;
  /** Waits for calls under way, for CALLS_LIMIT at most, and removes the socket. Close the store after it. */
  close(): Promise<void>;
}

/** Milliseconds that calls have to end. */
const CALLS_LIMIT = 5000;

/** Failures of the machine. containerd handles all others, such as a snapshot that is not there. */
const LOGGED = ['RESOURCE_EXHAUSTED', 'UNAVAILABLE', 'INTERNAL'];

/**
 * @param socket path of the Unix socket, which gets mode 0600
 * @throws SocketError if another process listens there, or it cannot be made; UnpackError STORE_FAILED for a store whose files
 *   have lost their owners; system errors
 */
export async function serveSnapshotter(store: OwnStore, socket: string, log: Log): Promise<ServedSnapshotter> {
  if (store.ownership === 'squash') {
    throw new UnpackError(
      'STORE_FAILED',
      `the store ${store.root} holds layers whose files all belong to one user, and containers need their owners: choose another directory, whose layers are unpacked by root with UNPACK_OWNERSHIP=keep`,
    );
  }
  const sync = new StoreSync(store.root);
  let server: RunningServer;
  try {
    server = await serve<Snapshots>({
      socket,
      definition: loadService('snapshots.proto', 'containerd.services.snapshots.v1.Snapshots'),
      handlers: new SnapshotsService(store, sync),
      failure: (thrown, method) => {
        const failure = failureOf(thrown);
        const { code, details } = failure;
        if (LOGGED.includes(code)) log('warn', `${method} of containerd failed: ${details}`, { method, code });
        return failure;
      },
    });
  } catch (error) {
    sync[Symbol.dispose]();
    throw error;
  }
  return {
    socket,
    close: async () => {
      await server.close(CALLS_LIMIT);
      sync[Symbol.dispose]();
    },
  };
}
