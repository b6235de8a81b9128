import { join } from 'node:path';
import { loadConfig, storePlace } from '../../src/config.ts';
import { openStore } from '../../src/snapshots/open-store.ts';
import { ContainerdDaemon, findContainerd } from './containerd-daemon.ts';
import { emptyStore } from './removal.ts';

/** Where a worker of the benchmark unpacks images to (`unpackd-worker.ts`). */
export interface WorkerStore {
  /** The settings by which the worker finds it. */
  readonly settings: Readonly<Record<string, string>>;
  /** Processes that do a part of the work. */
  readonly pids: readonly number[];
  /** Removes all images with their files, and waits for it. */
  empty(): Promise<void>;
  close(): Promise<void>;
}

/** A store of unpackd's own. @param folder an empty folder, or one that does not exist */
export async function ownStore(folder: string): Promise<WorkerStore> {
  const settings = { UNPACK_ROOT: join(folder, 'store') };
  const snapshotter = await openStore(storePlace(loadConfig(settings, {})));
  return { settings, pids: [], empty: () => emptyStore(snapshotter), close: () => snapshotter.close() };
}

/**
 * The overlayfs snapshotter of a containerd, which runs until `close`.
 * @param programs a folder with `containerd` and `ctr`; default: those on the PATH @throws Unavailable
 */
export async function containerdStore(folder: string, programs?: string): Promise<WorkerStore> {
  const daemon = await ContainerdDaemon.start(findContainerd(programs), join(folder, 'containerd'));
  return {
    settings: {
      UNPACK_ROOT: join(folder, 'state'),
      UNPACK_SNAPSHOTTER: 'containerd',
      UNPACK_CONTAINERD_SOCKET: daemon.socket,
      UNPACK_CONTAINERD_NAMESPACE: daemon.namespace,
    },
    pids: [daemon.pid],
    async empty() {
      const names = (await daemon.ctr('images', 'ls', '--quiet')).split('\n').filter((name) => name !== '');
      // --sync waits for the removal of the files too
      if (names.length > 0) await daemon.ctr('images', 'rm', '--sync', ...names);
    },
    close: () => daemon.stop(),
  };
}
