import type { ContainerdOptions } from './containerd/open.ts';
import { stateId } from './containerd/state.ts';
import { readStoreRecord } from './identity.ts';
import { openSnapshotter, openToRead, type StoreOptions } from './open.ts';
import type { Store, StoreReader } from './store.ts';

/** Opens the store that the settings name: one of our own, or containerd's. The worker and the command line call it. */

/** A store of our own, or containerd's, with the directory of our own files for it. */
export type StorePlace = Pick<StoreOptions, 'root' | 'type'> | ContainerdPlace;

export interface ContainerdPlace extends Omit<ContainerdOptions, 'durable'> {
  readonly type: 'containerd';
}

/** @param openOwn how one of our own is opened @throws as `openSnapshotter` and `openContainerdStore` */
export async function openStore(
  place: StorePlace,
  options: Omit<StoreOptions, 'root' | 'type'> = {},
  openOwn: (options: StoreOptions) => Promise<Store> = openSnapshotter,
): Promise<Store> {
  if (place.type !== 'containerd') return openOwn({ ...place, ...options });
  const { openContainerdStore } = await import('./containerd/open.ts');
  return openContainerdStore({ ...place, ...(options.durable === undefined ? {} : { durable: options.durable }) });
}

/** Opens it for calls that change nothing. @throws as `openToRead` and `openContainerdToRead` */
export async function openStoreToRead(place: StorePlace): Promise<StoreReader> {
  if (place.type !== 'containerd') return openToRead(place);
  const { openContainerdToRead } = await import('./containerd/open.ts');
  return openContainerdToRead(place);
}

/**
 * Loads what opening needs. Call it when the process starts: if a module cannot be read later, for lack of descriptors or memory,
 * Node keeps that failure, and the process could never open the store.
 */
export async function loadStore({ type }: StorePlace): Promise<void> {
  if (type === 'containerd') await import('./containerd/open.ts');
}

/**
 * The identity of an open store: processes that share the store read the same one. `undefined` if its file cannot be read now.
 */
export function storeIdentity(store: Pick<Store, 'root' | 'state' | 'collectedBy'>): string | undefined {
  try {
    return store.collectedBy === 'unpackd' ? readStoreRecord(store.root)?.identity : stateId(store.state);
  } catch {
    return undefined;
  }
}

/** Where the images of a job are, for its result. */
export interface StoreFacts {
  readonly root: string;
  readonly snapshotter: Store['type'];
  readonly containerd?: { readonly namespace: string; readonly snapshotter: string };
}

export function storeFacts({ root, type }: Pick<Store, 'root' | 'type'>, place: StorePlace): StoreFacts {
  if (place.type !== 'containerd') return { root, snapshotter: type };
  const { namespace, snapshotter } = place;
  return { root, snapshotter: type, containerd: { namespace, snapshotter } };
}
