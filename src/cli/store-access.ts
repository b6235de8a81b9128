import type { Command } from 'commander';
import type { Store, StoreReader } from '../snapshots/store.ts';
import { configOf } from './settings.ts';

/** Opens the store of this machine for one command, and closes it after the command. */

/** @param mayUseReserve for the commands that make room on a full disk */
export async function withStore(
  command: Command,
  action: (store: Store) => Promise<void>,
  mayUseReserve = false,
): Promise<void> {
  const config = configOf(command);
  const { openSnapshotter } = await import('../snapshots/open.ts');
  const place = { root: config.UNPACK_ROOT, type: config.UNPACK_SNAPSHOTTER };
  // people may look at files that are not on disk yet
  await closing(await openSnapshotter({ ...place, durable: false, mayUseReserve }), action);
}

/** For commands that change nothing. */
export async function withReader(command: Command, action: (store: StoreReader) => Promise<void>): Promise<void> {
  const config = configOf(command);
  const { openToRead } = await import('../snapshots/open.ts');
  await closing(await openToRead({ root: config.UNPACK_ROOT, type: config.UNPACK_SNAPSHOTTER }), action);
}

async function closing<Opened extends Pick<Store, 'close'>>(
  store: Opened,
  action: (store: Opened) => Promise<void>,
): Promise<void> {
  try {
    await action(store);
  } finally {
    await store.close();
  }
}
