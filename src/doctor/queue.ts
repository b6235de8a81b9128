import { Queue } from 'bullmq';
import { impatientConnection, type QueueSettings, type RedisSettings } from '../queue/connection.ts';
import { durationText } from '../units.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';

const TIMEOUT = 3000;
/** Names of workers that are shown. */
const SHOWN = 5;

/** What the queue holds, and whether anybody takes jobs from it. Redis is known to answer. */
export async function checkQueue(
  settings: RedisSettings & Pick<QueueSettings, 'UNPACK_QUEUE' | 'UNPACK_REDIS_PREFIX'>,
): Promise<Check[]> {
  const { UNPACK_QUEUE: name, UNPACK_REDIS_PREFIX: prefix } = settings;
  const connection = impatientConnection(settings, TIMEOUT);
  connection.on('error', () => {});
  let queue: Queue | undefined;
  try {
    // a command before it is connected would fail at once
    if (connection.status !== 'ready') {
      await new Promise((resolve, reject) => {
        connection.once('ready', resolve).once('error', reject).once('end', reject);
      });
    }
    queue = new Queue(name, { connection, prefix, skipMetasUpdate: true, skipVersionCheck: true });
    queue.on('error', () => {});
    const workers = await workersOf(queue);
    const { jobs, held } = await jobsOf(queue, name);
    return [jobs, anyWorker(workers, held, name)];
  } catch (error) {
    return [fail('Queue', `${name} can't be read: ${reason(error)}`, 'see the rights of the Redis user (ACL)')];
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
        `${finding}; it is paused`,
        'workers take nothing until it is resumed: queue.resume() of BullMQ',
      ),
    };
  }
  return { held, jobs: ok('Queue', finding) };
}

/** Jobs with a priority have an order of their own: the first of both is the oldest of those that come next. */
async function longestWait(queue: Queue): Promise<string> {
  const first = await queue.getJobs(['waiting', 'prioritized'], 0, 0, true);
  const added = first.flatMap((job) => (job === undefined || job === null ? [] : [job.timestamp]));
  if (added.length === 0) return 'none of them by now';
  return `the oldest was added ${durationText(Math.max(0, Date.now() - Math.min(...added)))} ago`;
}

/** Their names; `undefined` where the server does not tell who is connected. */
async function workersOf(queue: Queue): Promise<readonly string[] | undefined> {
  try {
    const clients = await queue.getWorkers();
    // BullMQ's answer where the server has no CLIENT LIST
    if (clients.some(({ name }) => name?.includes('does not support'))) return undefined;
    return clients.map(
      ({ rawname = '', name = '', addr = 'unknown' }) => /:w:(.*)$/.exec(rawname || name)?.[1] ?? addr,
    );
  } catch {
    return undefined;
  }
}

function anyWorker(workers: readonly string[] | undefined, held: number, queue: string): Check {
  const name = 'Workers';
  if (workers === undefined) {
    return warn(name, 'this server does not tell who is connected (CLIENT LIST)', 'look at the workers themselves');
  }
  if (workers.length > 0) {
    const more = workers.length > SHOWN ? `, and ${workers.length - SHOWN} more` : '';
    return ok(name, `${workers.length} connected: ${workers.slice(0, SHOWN).join(', ')}${more}`);
  }
  if (held === 0) return ok(name, `none is connected to ${queue}, and there is nothing to do`);
  const advice =
    'start one (unpackd worker), or see that it has the same REDIS_URL, UNPACK_QUEUE and UNPACK_REDIS_PREFIX';
  return warn(name, `none is connected to ${queue}: its jobs wait`, advice);
}
