import type { QueueOverview } from '../queue/overview.ts';
import type { WorkerView } from '../queue/worker-presence.ts';
import { bytesText, count, durationText } from '../units.ts';
import { type Cell, type Column, table } from './table.ts';

/** The state of the queue as lines for a terminal. `unpackd queue` prints them. */

const RUNNING_COLUMNS: readonly Column[] = [
  { title: 'JOB', cut: 'end', least: 9 },
  { title: 'PHASE' },
  { title: 'FOR', align: 'right' },
  { title: 'WORKER', cut: 'middle' },
  { title: 'IMAGE', cut: 'middle', least: 16 },
];
const WORKER_COLUMNS: readonly Column[] = [
  { title: 'WORKER', cut: 'middle' },
  { title: 'STATE' },
  { title: 'JOBS', align: 'right' },
  { title: 'IMAGES', align: 'right' },
  { title: 'FREE', align: 'right' },
  { title: 'STORE', cut: 'middle' },
];

/** @param width of the terminal; `undefined`: nothing is cut */
export function queueLines(overview: QueueOverview, width: number | undefined, now = Date.now()): string[] {
  const { counts, paused, oldestWaiting, workers, failuresOfLastHour } = overview;
  const waiting = `${amount(counts.waiting)} waiting, ${amount(counts.prioritized)} with a priority, ${amount(counts.delayed)} delayed`;
  const rest = `${amount(counts.active)} running, ${amount(counts.completed)} completed, ${amount(counts.failed)} failed`;
  const oldest =
    oldestWaiting === undefined
      ? 'none waits'
      : `${oldestWaiting.id}  ${oldestWaiting.image ?? '(of another program)'}, ${waitText(oldestWaiting.ready.getTime(), now)}`;
  return [
    `jobs    ${waiting}, ${rest}`,
    `oldest  ${oldest}`,
    ...(paused ? ['paused  workers take no jobs until somebody resumes the queue'] : []),
    '',
    ...workerLines(workers, width, now),
    ...failureLines(failuresOfLastHour),
  ];
}

function waitText(ready: number, now: number): string {
  return ready > now ? `not before ${durationText(ready - now)} from now` : `waits for ${durationText(now - ready)}`;
}

function workerLines(workers: readonly WorkerView[], width: number | undefined, now: number): string[] {
  if (workers.length === 0) return ['no worker has given a sign of life: start one with unpackd worker', ''];
  const rows = workers.map((worker): Cell[] => [
    worker.name,
    stateText(worker, now),
    `${worker.running} of ${worker.slots}`,
    worker.images === undefined ? '' : amount(worker.images),
    worker.disk === undefined ? '' : bytesText(worker.disk.bytes),
    worker.store.root,
  ]);
  const problems = workers.flatMap(({ name, problem }) => (problem === undefined ? [] : [`${name}: ${problem}`]));
  const running = workers.flatMap((worker) =>
    worker.jobs.map(({ id, phase, since, image }): Cell[] => [
      id,
      phase,
      durationText(Math.max(0, now - since)),
      worker.name,
      image ?? '(of another program)',
    ]),
  );
  return [
    ...table(WORKER_COLUMNS, rows, width),
    ...problems,
    '',
    ...(running.length === 0 ? [] : [...table(RUNNING_COLUMNS, running, width), '']),
  ];
}

function stateText({ state, silent, seen }: WorkerView, now: number): string {
  if (silent) return `silent for ${durationText(Math.max(0, now - seen.getTime()))}`;
  if (state === 'faulty') return 'store faulty';
  return state === 'closing' ? 'shuts down' : 'ready';
}

function failureLines(failures: QueueOverview['failuresOfLastHour']): string[] {
  if (failures.length === 0) return ['no job failed in the last hour'];
  const all = failures.reduce((sum, failure) => sum + failure.count, 0);
  const rows = failures.map(({ code, count }): Cell[] => [amount(count), code]);
  return [`${count(all, 'job')} failed in the last hour`, ...table([{ title: 'JOBS', align: 'right' }, 'CODE'], rows)];
}

function amount(number: number): string {
  return number.toLocaleString('en-US');
}
