import type { Queue } from 'bullmq';
import type { UnpackQueue } from '../queue/producer.ts';
import { count } from '../units.ts';
import type { JobLists } from './job-list.ts';
import type { Overview } from './pages/overview.ts';
import { problemsOf } from './problems.ts';

/** What `/` shows, read from Redis: a few jobs of each state, and what follows from them. */

const SHOWN = { active: 10, failed: 10, next: 5 } as const;

export async function readOverview(
  queue: Queue,
  producer: UnpackQueue,
  lists: JobLists,
  now: number,
): Promise<Overview> {
  const first = async (state: 'active' | 'failed' | 'waiting' | 'prioritized', size: number) =>
    lists.read(state, await lists.ids(state, 0, size));
  const [counts, paused, workers, active, failed, next, prioritized] = await Promise.all([
    producer.counts(),
    queue.isPaused(),
    queue.getWorkersCount(),
    first('active', SHOWN.active),
    first('failed', SHOWN.failed),
    first('waiting', SHOWN.next),
    first('prioritized', 1),
  ]);
  const oldest = [...next.slice(0, 1), ...prioritized].sort(
    (a, b) => (a.added?.getTime() ?? 0) - (b.added?.getTime() ?? 0),
  )[0];
  return {
    problems: problemsOf({
      paused,
      waiting: counts.waiting + counts.prioritized,
      active: counts.active,
      workers,
      oldestWait: oldest?.added && now - oldest.added.getTime(),
      silent: [],
      unready: [],
      failures: [],
    }),
    counts,
    oldest,
    active,
    failed,
    next,
    workers: workers === 0 ? 'No worker is connected.' : `${count(workers, 'worker')} connected.`,
  };
}
