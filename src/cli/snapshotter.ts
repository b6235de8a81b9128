import { once } from 'node:events';
import { resolve } from 'node:path';
import { Command } from 'commander';
import type { Logger } from 'pino';
import { type Config, ownStorePlace } from '../config.ts';
import type { Store } from '../snapshots/store.ts';
import type { Cli } from './output.ts';
import { configOf, HEALTH_SETTINGS, LOG_SETTINGS, STORE_SETTINGS, takesSettings } from './settings.ts';

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
  takesSettings(command, [
    ...STORE_SETTINGS,
    'UNPACK_SNAPSHOTTER_SOCKET',
    'UNPACK_DURABLE',
    ...HEALTH_SETTINGS,
    ...LOG_SETTINGS,
  ]);
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
    const metrics = await metricsOf(config, store);
    const served = await serveSnapshotter(store, socket, sentenceLog(log), metrics?.calls);
    try {
      const health = await metrics?.serve(log);
      if (!signal.aborted) await once(signal, 'abort');
      await health?.close();
    } finally {
      await served.close();
    }
    log.info('stopped');
  } finally {
    await store.close();
  }
}

/** Health and metrics, if they are served. Otherwise their code is not loaded. */
async function metricsOf(config: Config, store: Store) {
  if (config.UNPACK_HEALTH_PORT === undefined) return undefined;
  const { startHealthServer } = await import('../board/health.ts');
  const { MetricsPage } = await import('../metrics/metrics-page.ts');
  const { snapshotterMetrics } = await import('../metrics/snapshotter-metrics.ts');
  const { addStoreMetrics } = await import('../metrics/store-metrics.ts');
  const page = new MetricsPage('snapshotter', undefined);
  addStoreMetrics(page, store);
  return {
    calls: snapshotterMetrics(page.registry),
    /**
     * It is called when containerd is served, so the process is ready. A port that is taken is only logged: without this process,
     * no container can start.
     */
    async serve(log: Logger) {
      try {
        const health = await startHealthServer(config, async () => undefined, page);
        if (health !== undefined) log.info({ url: health.url }, `health at ${health.url}`);
        return health;
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error);
        log.warn({ err: error }, `health and metrics are not served: ${why}`);
        return undefined;
      }
    },
  };
}
