import { setTimeout as sleep } from 'node:timers/promises';
import { UnpackError } from '../errors.ts';
import { loadService } from '../grpc/definitions.ts';
import { type CallObserver, type RunningServer, serve } from '../grpc/server.ts';
import type { Snapshots } from '../grpc/services.ts';
import { SocketError } from '../grpc/socket.ts';
import type { Log } from '../rootfs/applier.ts';
import { StoreSync } from '../rootfs/durability.ts';
import type { OwnStore } from '../snapshots/store.ts';
import { failureOf } from './failure.ts';
import { SnapshotsService } from './snapshots.ts';
import { lockForServing } from './store-lock.ts';

/** Serves a store to containerd as a proxy snapshotter. `unpackd snapshotter` and a worker call it. */

export interface ServedSnapshotter {
  readonly socket: string;
  /** Waits for calls under way, for CALLS_LIMIT at most, and removes the socket. Close the store after it. */
  close(): Promise<void>;
}

/** Milliseconds between two looks whether another process still serves. */
const LOOK = 1000;
/** Milliseconds that calls have to end. */
const CALLS_LIMIT = 5000;

/** Failures of the machine. containerd handles all others, such as a snapshot that is not there. */
const LOGGED = ['RESOURCE_EXHAUSTED', 'UNAVAILABLE', 'INTERNAL'];

/**
 * @param socket path of the Unix socket, which gets mode 0600
 * @param onCall gets the end of each call of containerd
 * @throws SocketError if another process listens there or serves the store, or the socket cannot be made; UnpackError
 *   STORE_FAILED for a store whose files have lost their owners; system errors
 */
export async function serveSnapshotter(
  store: OwnStore,
  socket: string,
  log: Log,
  onCall?: CallObserver,
): Promise<ServedSnapshotter> {
  if (store.ownership === 'squash') {
    throw new UnpackError(
      'STORE_FAILED',
      `the store ${store.root} holds layers whose files all belong to one user, and containers need their owners: choose another directory, whose layers are unpacked by root with UNPACK_OWNERSHIP=keep`,
    );
  }
  const lock = lockForServing(store.root, socket);
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
      onCall,
    });
  } catch (error) {
    sync[Symbol.dispose]();
    lock[Symbol.dispose]();
    throw error;
  }
  log('info', `serves ${store.root} to containerd on ${socket}`, { socket, root: store.root });
  return {
    socket,
    close: async () => {
      await server.close(CALLS_LIMIT);
      sync[Symbol.dispose]();
      lock[Symbol.dispose]();
    },
  };
}

/**
 * As `serveSnapshotter`. While another process listens on the socket, it waits in the background, and serves when that one has
 * ended: several workers of a machine can have the same settings.
 * @throws as `serveSnapshotter`, but not if another process listens
 */
export async function serveWhenFree(
  store: OwnStore,
  socket: string,
  log: Log,
  onCall?: CallObserver,
): Promise<ServedSnapshotter> {
  try {
    return await serveSnapshotter(store, socket, log, onCall);
  } catch (error) {
    if (!isTaken(error)) throw error;
    log('info', `another process serves containerd on ${socket}; this one does when that one has ended`, { socket });
  }
  const stop = new AbortController();
  const serving = waitAndServe(() => serveSnapshotter(store, socket, log, onCall), log, stop.signal);
  return {
    socket,
    close: async () => {
      stop.abort();
      await (await serving)?.close();
    },
  };
}

async function waitAndServe(
  serveNow: () => Promise<ServedSnapshotter>,
  log: Log,
  stop: AbortSignal,
): Promise<ServedSnapshotter | undefined> {
  let logged = false;
  while (!stop.aborted) {
    try {
      return await serveNow();
    } catch (error) {
      if (!isTaken(error) && !logged) {
        log('warn', `containerd is not served: ${sentenceOf(error)}`);
        logged = true;
      }
    }
    await sleep(LOOK, undefined, { signal: stop, ref: false }).catch(() => {});
  }
  return undefined;
}

const sentenceOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const isTaken = (error: unknown): boolean => error instanceof SocketError && error.isTaken;
