import { Command } from 'commander';
import type { SettingName } from '../config.ts';
import { QUEUE_SETTINGS } from '../config.ts';
import type { Cli } from './output.ts';
import {
  APPLY_SETTINGS,
  COLLECTOR_SETTINGS,
  configOf,
  HEALTH_SETTINGS,
  LOG_SETTINGS,
  S3_SETTINGS,
  STORE_SETTINGS,
  takesSettings,
} from './settings.ts';

const WORKER_SETTINGS = [
  'UNPACK_JOBS',
  'UNPACK_ATTEMPTS',
  'UNPACK_BACKOFF',
  'UNPACK_JOB_TIMEOUT',
  'UNPACK_GRACE',
  'UNPACK_LOCK',
  'UNPACK_KEEP_COMPLETED',
  'UNPACK_KEEP_FAILED',
  'UNPACK_LISTED_IMAGES',
  'UNPACK_WORKER_NAME',
  'UNPACK_BUCKETS',
  'UNPACK_SNAPSHOTTER_SOCKET',
] as const satisfies SettingName[];

const EXAMPLES = `
On SIGTERM or Ctrl-C the worker takes no more jobs. Running jobs have UNPACK_GRACE to finish; then they go back to the queue.
A second signal ends the process at once, and other workers take its jobs when their locks expire (UNPACK_LOCK).

Examples:
  unpackd worker --root /var/lib/unpackd --jobs 8
  REDIS_URL=rediss://queue:6379 S3_ENDPOINT=https://s3.example UNPACK_BUCKETS=images unpackd worker`;

/** `unpackd worker`: runs a worker in this process (`workers/unpack.ts`). */
export function workerCommand({ signal }: Cli): Command {
  const command = new Command('worker')
    .description('Takes jobs from the queue and unpacks their images into the store of this machine, until SIGTERM.')
    .addHelpText('after', EXAMPLES);
  takesSettings(command, [
    ...QUEUE_SETTINGS,
    ...STORE_SETTINGS,
    ...WORKER_SETTINGS,
    ...APPLY_SETTINGS,
    ...COLLECTOR_SETTINGS,
    ...S3_SETTINGS,
    ...HEALTH_SETTINGS,
    ...LOG_SETTINGS,
  ]);
  return command.action(async () => {
    const config = configOf(command);
    const { createLog } = await import('../queue/log.ts');
    const { runWorker } = await import('../../workers/unpack.ts');
    const log = createLog(config);
    signal.addEventListener('abort', () => log.info('stopping; send the signal again to stop at once'), { once: true });
    await runWorker(config, signal, log);
  });
}
