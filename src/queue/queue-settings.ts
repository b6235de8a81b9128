import { loadQueueSettings } from '../config.ts';
import type { QueueSettings } from './connection.ts';

/**
 * The settings of the queue from environment variables, with their defaults, for producers: `REDIS_URL`, `UNPACK_QUEUE` and the
 * other settings of the queue in docs/operations.md.
 * @throws ConfigError with every wrong setting
 */
export function queueSettings(env: Readonly<Record<string, string | undefined>> = process.env): QueueSettings {
  return loadQueueSettings(env);
}
