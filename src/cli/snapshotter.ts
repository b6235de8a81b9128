import { once } from 'node:events';
import { resolve } from 'node:path';
import { Command } from 'commander';
import { type Config, ownStorePlace } from '../config.ts';
import type { Cli } from './output.ts';
import { configOf, LOG_SETTINGS, STORE_SETTINGS, takesSettings } from './settings.ts';

const DEFAULT_SOCKET = '/run/unpackd/snapshotter.sock';

const EXAMPLES = `
containerd needs these lines in its config.toml, and a restart:

  [proxy_plugins.unpackd]
    type = "snapshot"
    address = "${DEFAULT_SOCKET}"

Images that jobs have unpacked start without a download after unpackd images register. The socket has mode 0600. On SIGTERM or
Ctrl-C, running calls end first. Containers go on without this process; containerd connects again when it is back.

Examples:
  unpackd snapshotter --root /data/unpackd
  ctr images pull --snapshotter unpackd registry.example.com/app:1.0
  ctr run --rm --snapshotter unpackd registry.example.com/app:1.0 test`;

/** `unpackd snapshotter`: serves the store to containerd until SIGTERM (`src/proxy`). */
export function snapshotterCommand({ signal }: Cli): Command {
  const command = new Command('snapshotter')
    .description('Serves the store of this machine to containerd, as a proxy snapshotter, until SIGTERM.')
    .option('--address <socket>', `the same as --snapshotter-socket; default ${DEFAULT_SOCKET}`)
    .addHelpText('after', EXAMPLES);
  takesSettings(command, [...STORE_SETTINGS, 'UNPACK_SNAPSHOTTER_SOCKET', 'UNPACK_DURABLE', ...LOG_SETTINGS]);
  return command.action(async ({ address }: { readonly address?: string }) => {
    const config = configOf(command);
    await run(config, resolve(address ?? config.UNPACK_SNAPSHOTTER_SOCKET ?? DEFAULT_SOCKET), signal);
  });
}

async function run(config: Config, socket: string, signal: AbortSignal): Promise<void> {
  const { createLog, sentenceLog } = await import('../queue/log.ts');
  const { openStoreThread } = await import('../snapshots/store-thread.ts');
  const { serveSnapshotter } = await import('../proxy/snapshotter.ts');
  const log = createLog(config);
  const place = ownStorePlace(config, 'unpackd snapshotter');
  // Without `ownership`, a store keeps the one that it was made with. `mayUseReserve`, because containerd removes snapshots on a
  // full disk too.
  const store = await openStoreThread({ ...place, durable: config.UNPACK_DURABLE, mayUseReserve: true });
  try {
    const served = await serveSnapshotter(store, socket, sentenceLog(log));
    if (!signal.aborted) await once(signal, 'abort');
    await served.close();
    log.info('stopped');
  } finally {
    await store.close();
  }
}
