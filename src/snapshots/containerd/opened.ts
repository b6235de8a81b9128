import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerdClient } from '../../grpc/client.ts';
import { LruCache } from '../../lru-cache.ts';
import { Calls } from '../calls.ts';
import type { Leases } from '../leases.ts';
import type { Mount, OverlayXattrs } from '../snapshotter.ts';
import { CLOSE_LIMIT } from '../store.ts';
import { Durability } from './durability.ts';
import { converted } from './errors.ts';
import type { ActiveSnapshots, ContainerdLeases } from './leases.ts';
import type { State } from './state.ts';

/** What the snapshotters of one opening share. Each has a lease of its own. `open.ts` makes it. */

/** Where the snapshots are, and what was found out about their snapshotter when it was opened. */
export interface SnapshotterPlace {
  readonly socket: string;
  readonly namespace: string;
  /** The name of the snapshotter in containerd. */
  readonly snapshotter: string;
  /** Its directory. */
  readonly root: string;
  /** Whether its commit gives a parent to a snapshot that was prepared without one (capability `rebase`). */
  readonly canRebase: boolean;
  readonly overlayXattrs: OverlayXattrs;
}

export interface OpenedParts {
  /** It is closed with the snapshotters. */
  readonly client: ContainerdClient;
  readonly place: SnapshotterPlace;
  readonly state: State;
  readonly durable: boolean;
  readonly files: Leases;
  readonly leases: ContainerdLeases;
}

/** The number of snapshots whose mounts are remembered. */
const KNOWN_MOUNTS = 10_000;

export class Opened {
  readonly client: ContainerdClient;
  readonly place: SnapshotterPlace;
  readonly state: State;
  readonly durable: boolean;
  readonly files: Leases;
  readonly leases: ContainerdLeases;
  readonly durability: Durability;
  /** What was prepared without a lease. A lease has its own, so that nothing of a failed job stays in memory. */
  readonly active: ActiveSnapshots = new Map();
  /** The view mounts of committed snapshots, by their versions. */
  readonly views = new LruCache<readonly Mount[]>(KNOWN_MOUNTS);
  /** How the keys begin that are made while a layer is unpacked. */
  readonly extraction: string;
  /** Whether snapshots were removed whose files containerd has possibly not deleted yet. */
  hasRemoved = false;
  readonly #calls: Calls;
  #closed: Promise<void> | undefined;

  /** @throws system errors */
  constructor({ client, place, state, durable, files, leases }: OpenedParts) {
    this.client = client;
    this.place = place;
    this.state = state;
    this.durable = durable;
    this.files = files;
    this.leases = leases;
    this.durability = new Durability(client, place.snapshotter, join(place.root, 'snapshots'));
    this.extraction = `unpackd-${state.id}-extract-`;
    this.#calls = new Calls(place.root, 'containerd');
  }

  /** Runs calls of containerd. @throws UnpackError SHUTTING_DOWN after `close`; as `storeError` converts the errors of the calls */
  run<T>(calls: () => Promise<T>): Promise<T> {
    return this.#calls.run(() => converted(this.place.socket, calls));
  }

  /**
   * Waits for the calls that run. A containerd that hangs does not delay the end of a process, although a call may take minutes.
   * A second call does nothing.
   * @param limit milliseconds
   */
  close(limit = CLOSE_LIMIT): Promise<void> {
    this.#closed ??= this.#end(limit);
    return this.#closed;
  }

  async #end(limit: number): Promise<void> {
    await Promise.race([this.#calls.end(), sleep(limit, undefined, { ref: false })]);
    await this.durability.close();
    this.client.close();
  }
}
