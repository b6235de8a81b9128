import type { ImageReader, ImageRecords } from './images.ts';
import type { Lease, SnapshotReader, Snapshotter } from './snapshotter.ts';

/**
 * The interfaces of a store. Our own store implements them twice: SnapshotStore, and StoreOnThread, which calls a SnapshotStore
 * on another thread. ContainerdStore is a store in containerd. `open-store.ts` opens the store that the settings name.
 */

/** A store of snapshots that records which images they are from. */
export interface Store extends Snapshotter, ImageRecords {
  /**
   * The same store, for calls that need what the lease keeps. Our own store returns itself, because its leases are files that
   * every removal reads. containerd covers only calls that name a lease.
   */
  under(lease: Lease): Store;
}

/** Our own store, with the calls that `unpackd snapshotter` needs to serve it to containerd. `Claim` says what a claim is. */
export interface OwnStore extends Store {
  under(lease: Lease): OwnStore;
  /**
   * Claims a committed snapshot and all below it, because containerd gets to know it.
   * @param parent the parent that containerd knows; `""` for none
   * @returns `false` if there is no such snapshot with that parent, or it cannot be used
   */
  adopt(name: string, parent: string): Promise<boolean>;
  /**
   * Ends the claim, because containerd needs the snapshot no more. One that was made through containerd is removed. One that
   * was adopted stays, and the collector of unpackd may remove it.
   * @throws NotFound, FailedPrecondition when a claimed snapshot stands on it, or if it was made through containerd as `remove`
   */
  release(key: string): Promise<void>;
}

/** Whether a store is one of our own, and not containerd's. */
export function isOwnStore(store: Store): store is OwnStore {
  return store.collectedBy === 'unpackd' && 'adopt' in store;
}

/** The part of a Store that changes nothing. */
export interface StoreReader extends SnapshotReader, ImageReader {}

/** How long `close` waits for what runs, in milliseconds. In our own store, the next cleanup deletes what is left then. */
export const CLOSE_LIMIT = 30_000;
