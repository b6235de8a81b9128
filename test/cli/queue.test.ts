import assert from 'node:assert/strict';
import { test } from 'node:test';
import { queueLines } from '../../src/cli/queue-view.ts';
import { UnpackError } from '../../src/errors.ts';
import type { WorkerView } from '../../src/queue/worker-presence.ts';
import { payload, queueFixture } from '../queue/queue-fixture.ts';
import { runCli } from './run-cli.ts';

const fixture = queueFixture();
const NOW = Date.UTC(2026, 0, 1, 12);

const worker = (more: Partial<WorkerView>): WorkerView => ({
  version: 1,
  id: 'a',
  name: 'host-1:12',
  host: 'host-1',
  pid: 12,
  started: NOW - 3_600_000,
  state: 'ready',
  store: { root: '/var/lib/unpackd', snapshotter: 'overlay' },
  images: 12,
  disk: { bytes: 5 * 2 ** 30, totalBytes: 10 * 2 ** 30 },
  slots: 4,
  lock: 30_000,
  running: 0,
  jobs: [],
  seen: new Date(NOW - 3000),
  silent: false,
  ...more,
});

test('the queue, its workers and the failures fit on a screen', () => {
  const jobs = [{ id: 'job-1', image: 'registry.example/app:1', phase: 'unpacking' as const, since: NOW - 12_000 }];
  const lines = queueLines(
    {
      counts: { waiting: 1200, prioritized: 3, delayed: 1, active: 1, completed: 5012, failed: 7 },
      paused: true,
      oldestWaiting: {
        id: 'job-0',
        image: 'registry.example/old:1',
        added: new Date(NOW - 180_000),
        ready: new Date(NOW - 180_000),
      },
      workers: [
        worker({ running: 1, jobs }),
        worker({ name: 'host-2:7', silent: true, seen: new Date(NOW - 95_000) }),
        worker({ name: 'host-3:1', state: 'faulty', problem: 'the disk is read-only; repair it' }),
      ],
      failuresOfLastHour: [
        { code: 'SOURCE_UNAVAILABLE', count: 5 },
        { code: 'STALLED', count: 2 },
      ],
    },
    undefined,
    NOW,
  );
  assert.deepEqual(lines, [
    'jobs    1,200 waiting, 3 with a priority, 1 delayed, 1 running, 5,012 completed, 7 failed',
    'oldest  job-0  registry.example/old:1, waits for 3 min',
    'paused  workers take no jobs until somebody resumes the queue',
    '',
    'WORKER     STATE                    JOBS  IMAGES     FREE  STORE',
    'host-1:12  ready                  1 of 4      12  5.0 GiB  /var/lib/unpackd',
    'host-2:7   silent for 1 min 35 s  0 of 4      12  5.0 GiB  /var/lib/unpackd',
    'host-3:1   store faulty           0 of 4      12  5.0 GiB  /var/lib/unpackd',
    'host-3:1: the disk is read-only; repair it',
    '',
    'JOB    PHASE       FOR  WORKER     IMAGE',
    'job-1  unpacking  12 s  host-1:12  registry.example/app:1',
    '',
    '7 jobs failed in the last hour',
    'JOBS  CODE',
    '   5  SOURCE_UNAVAILABLE',
    '   2  STALLED',
  ]);
});

test('unpackd queue --json prints the counts, and --watch needs a terminal', async () => {
  const settings = fixture.settings();
  await fixture.producer(settings).add(payload('one'));
  const env = { REDIS_URL: settings.REDIS_URL, UNPACK_QUEUE: settings.UNPACK_QUEUE };
  const { status, stdout } = await runCli(['queue', '--json'], { env });
  assert.equal(status, 0);
  const { counts, oldestWaiting } = JSON.parse(stdout);
  assert.equal(counts.waiting, 1);
  assert.equal(oldestWaiting.image, 'registry.example/one:1');
  const watched = await runCli(['queue', '--watch'], { env });
  assert.match(watched.stderr, /^unpackd: \[USAGE\] --watch needs a terminal/);
  assert.equal(watched.status, 2);
});

test('unpackd retry retries by ID and by code, and refuses what is not failed', async () => {
  const settings = fixture.settings();
  const queue = fixture.producer(settings);
  const failing = await fixture.worker(settings, () => {
    throw new UnpackError('MANIFEST_INVALID', 'scripted');
  });
  const jobs = await queue.addBulk(['one', 'two', 'three'].map((bucket) => ({ payload: payload(bucket) })));
  await Promise.allSettled(jobs.map((job) => queue.wait(job)));
  await failing.close();
  const env = { REDIS_URL: settings.REDIS_URL, UNPACK_QUEUE: settings.UNPACK_QUEUE };
  const [first = ''] = jobs.map(({ id }) => id);
  const named = await runCli(['retry', first, 'nothing'], { env });
  assert.equal(named.stdout, `job ${first} waits again, with all its attempts\n`);
  assert.match(named.stderr, /^unpackd: \[JOB_NOT_FOUND\] job nothing does not exist[^\n]*\n$/);
  assert.equal(named.status, 1);
  const again = await runCli(['retry', first], { env });
  assert.equal(again.stderr, `unpackd: [JOB_NOT_FAILED] job ${first} is waiting: only a failed job can be retried\n`);
  const byCode = await runCli(['retry', '--code', 'MANIFEST_INVALID', '--since', '1h'], { env });
  assert.equal(byCode.stdout, '2 jobs that failed with MANIFEST_INVALID wait again\n');
  assert.equal(byCode.status, 0);
  const none = await runCli(['retry', '--code', 'MANIFEST_INVALID', '--json'], { env });
  assert.deepEqual(JSON.parse(none.stdout), { retried: [], refused: [] });
});

for (const [args, says] of [
  [['retry'], /either the IDs of jobs or --code CODE/],
  [['retry', 'one', '--code', 'STALLED'], /either the IDs of jobs or --code CODE/],
  [['retry', '--code', 'stalled'], /"stalled" is not a failure code; the codes are INVALID_JOB, /],
  [['retry', 'one', '--since', '1h'], /--since needs --code/],
  [['retry', '--code', 'STALLED', '--since', '5'], /--since "5" is not a time/],
] as const) {
  test(`unpackd ${args.join(' ')} is wrong use`, async () => {
    const { status, stderr } = await runCli([...args], { env: {} });
    assert.match(stderr, says);
    assert.equal(status, 2);
  });
}
