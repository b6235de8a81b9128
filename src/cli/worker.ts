import { Command } from 'commander';
import type { SettingName } from '../config.ts';
import type { Cli } from './output.ts';
import {
  APPLY_SETTINGS,
  configOf,
  HEALTH_SETTINGS,
  LOG_SETTINGS,
  QUEUE_SETTINGS,
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
  'UNPACK_WORKER_NAME',
  'UNPACK_BUCKETS',
] as const satisfies SettingName[];

const EXAMPLES = `
SIGTERM (and Ctrl-C) takes no more jobs and lets the running ones finish for UNPACK_GRACE; what is left goes back to the
queue. A second one ends the process at once: its jobs go to other workers when their locks have run out (UNPACK_LOCK).

Examples:
  unpackd worker --root /var/lib/unpackd --jobs 8
  REDIS_URL=rediss://queue:6379 S3_ENDPOINT=https://s3.example UNPACK_BUCKETS=images unpackd worker`;

/** `unpackd worker`. */
export function workerCommand({ signal }: Cli): Command {
  const command = new Command('worker')
    .description('Takes jobs from the queue and unpacks them into the store of this machine, until SIGTERM.')
    .addHelpText('after', EXAMPLES);
  takesSettings(command, [
    ...QUEUE_SETTINGS,
    ...STORE_SETTINGS,
    ...WORKER_SETTINGS,
    ...APPLY_SETTINGS,
    ...S3_SETTINGS,
    ...HEALTH_SETTINGS,
    ...LOG_SETTINGS,
  ]);
  return command.action(async () => {
    const config = configOf(command);
    const { createLog } = await import('../queue/log.ts');
    const { runWorker } = await import('../../workers/unpack.ts');
    const log = createLog(config);
    signal.addEventListener('abort', () => log.info('stopping; once more to stop at once'), { once: true });
    await runWorker(config, signal, log);
  });
}
