import type { Redis } from 'ioredis';
import type { Keys } from './connection.ts';
import type { WorkerRecord } from './formats.ts';
import { imageCounts } from './store-images.ts';
import { recordSchema } from './worker-record.ts';

/**
 * What running workers tell about themselves: each writes a record into Redis every ten seconds (`heartbeat.ts`), and this file
 * reads the records for `unpackd queue`, `unpackd status` and the board.
 *
 *     KEY    PREFIX:QUEUE:worker:ID    the record as JSON; expires an hour after the last heartbeat
 *     KEY    PREFIX:QUEUE:workers      sorted set of the IDs; expires with the last record
 *
 * ID is random and made when the worker starts, so a name (UNPACK_WORKER_NAME) may contain any character, and two workers may
 * have the same name. A worker that stops removes its record. The record of a worker that was killed stays for an hour, so that
 * readers can tell since when it is silent.
 */

/** Milliseconds between two heartbeats, without the jitter. */
export const HEARTBEAT = 10_000;
/** A worker without a heartbeat for this number of milliseconds is silent: it has missed three. */
export const SILENT_AFTER = 3 * HEARTBEAT + 2000;
/** Lifetime of a record after its last heartbeat, in milliseconds. */
export const RECORD_LIFE = 3_600_000;
/** Maximum number of running jobs in a record. */
export const JOBS_SHOWN = 32;
/** Number of records that one call of Redis reads. */
const PAGE = 500;

export function workerKey(queue: Keys, id: string): string {
  return queue.toKey(`worker:${id}`);
}

export function workersKey(queue: Keys): string {
  return queue.toKey('workers');
}

/** A worker as readers see it. */
export interface WorkerView extends WorkerRecord {
  /** The number of images in its store; absent if no worker of that store lists them. */
  readonly images?: number;
  /** The ID of its record. */
  readonly id: string;
  /** Its last heartbeat, by the clock of the reader. */
  readonly seen: Date;
  /** Whether heartbeats are missing: the worker was killed, is stopped, or cannot reach Redis. */
  readonly silent: boolean;
}

/**
 * KEYS: the IDs. ARGV: the prefix of the records' keys, the first and the last place to read. The age of a record follows from
 * its time to live, so that the clocks of the machines do not matter.
 */
const READ = `
  local found = {}
  local ids = redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[3])
  for _, id in ipairs(ids) do
    local record = redis.call('GET', ARGV[1] .. id)
    if record then
      found[#found + 1] = id
      found[#found + 1] = record
      found[#found + 1] = redis.call('PTTL', ARGV[1] .. id)
    end
  end
  return {#ids, found}
`;

/**
 * All workers with a record, sorted by name. Records of newer versions are left out. Workers of versions before the first
 * record are not among them.
 * @throws errors of Redis
 */
export async function readWorkers(redis: Redis, queue: Keys): Promise<WorkerView[]> {
  const workers: WorkerView[] = [];
  for (let from = 0; ; from += PAGE) {
    const prefix = workerKey(queue, '');
    // the result is what the script returns
    const answer = (await redis.eval(READ, 1, workersKey(queue), prefix, from, from + PAGE - 1)) as [
      number,
      (string | number)[],
    ];
    const [ids, found] = answer;
    for (let place = 0; place + 2 < found.length; place += 3) {
      const [id, text, left] = found.slice(place, place + 3);
      const worker = viewOf(String(id), String(text), Number(left));
      if (worker !== undefined) workers.push(worker);
    }
    if (ids < PAGE) break;
  }
  const ids = new Set(workers.flatMap(({ store }) => store.identity ?? []));
  const counts = await imageCounts(redis, queue, ids);
  const withImages = workers.map((worker): WorkerView => {
    const images = counts.get(worker.store.identity ?? '');
    return images === undefined ? worker : { ...worker, images };
  });
  return withImages.sort((one, other) => compare(one.name, other.name) || one.started - other.started);
}

/** @param left milliseconds until the record expires */
function viewOf(id: string, text: string, left: number): WorkerView | undefined {
  const record = readRecord(text);
  if (record === undefined) return undefined;
  const age = Math.max(0, RECORD_LIFE - left);
  return { ...record, id, seen: new Date(Date.now() - age), silent: age > SILENT_AFTER };
}

function readRecord(text: string): WorkerRecord | undefined {
  try {
    return recordSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}
