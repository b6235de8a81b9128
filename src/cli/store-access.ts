import type { Command } from 'commander';
import { storePlace } from '../config.ts';
import type { Store, StoreReader } from '../snapshots/store.ts';
import { CliError } from './explain-error.ts';
import { configOf } from './settings.ts';

/** Opens the store of this machine for one command, and closes it after the command. */

/** @param mayUseReserve for the commands that make room on a full disk */
export async function withStore(
  command: Command,
  action: (store: Store) => Promise<void>,
  mayUseReserve = false,
): Promise<void> {
  const { openStore } = await import('../snapshots/open-store.ts');
  // people may look at files that are not on disk yet
  await closing(await openStore(storePlace(configOf(command)), { durable: false, mayUseReserve }), action);
}

/** For commands that change nothing. */
export async function withReader(command: Command, action: (store: StoreReader) => Promise<void>): Promise<void> {
  const { openStoreToRead } = await import('../snapshots/open-store.ts');
  await closing(await openStoreToRead(storePlace(configOf(command))), action);
}

/**
 * Refuses a command that changes what only containerd may change, before anything is opened.
 * @param instead what to do with a store in containerd, as the end of a sentence
 * @throws CliError USAGE
 */
export function refuseForContainerd(command: Command, what: string, instead: string): void {
  if (configOf(command).UNPACK_SNAPSHOTTER !== 'containerd') return;
  throw new CliError('USAGE', `${what} is containerd's if UNPACK_SNAPSHOTTER=containerd: ${instead}`);
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
