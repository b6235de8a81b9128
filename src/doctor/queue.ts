import { Queue } from 'bullmq';
import { impatientConnection, type QueueSettings } from '../queue/connection.ts';
import type { RedisSettings } from '../redis-settings.ts';
import { durationText } from '../units.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';

const TIMEOUT = 3000;
/** Maximum number of workers that a message lists. */
const SHOWN = 5;

/** Checks the queue: its jobs, and the workers that are connected. `checkRedis` must have passed. */
export async function checkQueue(
  settings: RedisSettings & Pick<QueueSettings, 'UNPACK_QUEUE' | 'UNPACK_REDIS_PREFIX'>,
): Promise<Check[]> {
  const { UNPACK_QUEUE: name, UNPACK_REDIS_PREFIX: prefix } = settings;
  const connection = impatientConnection(settings, TIMEOUT);
  connection.on('error', () => {});
  let queue: Queue | undefined;
  try {
    // before the connection is open, every command on it fails at once
    if (connection.status !== 'ready') {
      await new Promise((resolve, reject) => {
        connection.once('ready', resolve).once('error', reject).once('end', reject);
      });
    }
    queue = new Queue(name, { connection, prefix, skipMetasUpdate: true, skipVersionCheck: true });
    queue.on('error', () => {});
    const workers = await workersOf(queue);
    const { jobs, held } = await jobsOf(queue, name);
    return [jobs, workersCheck(workers, held, name)];
  } catch (error) {
    return [fail('Queue', `${name} cannot be read: ${reason(error)}`, 'check the permissions of the Redis user (ACL)')];
  } finally {
    await queue?.close().catch(() => {});
    connection.disconnect();
  }
}

async function jobsOf(queue: Queue, name: string): Promise<{ readonly jobs: Check; readonly held: number }> {
  const counts = await queue.getJobCounts('waiting', 'prioritized', 'active', 'delayed', 'failed');
  const waiting = (counts.waiting ?? 0) + (counts.prioritized ?? 0);
  const { active = 0, delayed = 0, failed = 0 } = counts;
  const finding = [
    `${name}: ${waiting} waiting, ${active} running, ${delayed} delayed, ${failed} failed`,
    ...(waiting === 0 ? [] : [await longestWait(queue)]),
  ].join('; ');
  const held = waiting + active + delayed;
  if (await queue.isPaused()) {
    return {
      held,
      jobs: warn(
        'Queue',
        `${finding}; the queue is paused`,
        'workers take no jobs until somebody resumes it (the board has a button)',
      ),
    };
  }
  return { held, jobs: ok('Queue', finding) };
}

/** The age of the oldest job that is next. BullMQ keeps jobs with a priority in a second list, so both lists are read. */
async function longestWait(queue: Queue): Promise<string> {
  const first = await queue.getJobs(['waiting', 'prioritized'], 0, 0, true);
  const added = first.flatMap((job) => (job === undefined || job === null ? [] : [job.timestamp]));
  if (added.length === 0) return 'none is left now';
  return `the oldest was added ${durationText(Math.max(0, Date.now() - Math.min(...added)))} ago`;
}

/** The names of the connected workers; `undefined` if the server does not list its clients. */
async function workersOf(queue: Queue): Promise<readonly string[] | undefined> {
  try {
    const clients = await queue.getWorkers();
    // BullMQ returns this value if the server has no CLIENT LIST
    if (clients.some(({ name }) => name?.includes('does not support'))) return undefined;
    return clients.map(
      ({ rawname = '', name = '', addr = 'unknown' }) => /:w:(.*)$/.exec(rawname || name)?.[1] ?? addr,
    );
  } catch {
    return undefined;
  }
}

function workersCheck(workers: readonly string[] | undefined, held: number, queue: string): Check {
  const name = 'Workers';
  if (workers === undefined) {
    return warn(
      name,
      'unknown, because this server does not list its clients (CLIENT LIST)',
      'check on the machines of the workers whether they run',
    );
  }
  if (workers.length > 0) {
    const more = workers.length > SHOWN ? `, and ${workers.length - SHOWN} more` : '';
    return ok(name, `${workers.length} connected: ${workers.slice(0, SHOWN).join(', ')}${more}`);
  }
  if (held === 0) return ok(name, `none is connected to ${queue}, and the queue is empty`);
  const advice =
    'start one (unpackd worker); if one runs, give it the same REDIS_URL, UNPACK_QUEUE and UNPACK_REDIS_PREFIX';
  return warn(name, `none is connected to ${queue}, so its jobs wait`, advice);
}
