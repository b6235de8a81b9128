import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { startBoard } from '../../src/board/board.ts';
import { checkRedis } from '../../src/doctor/redis.ts';
import { createLog } from '../../src/queue/log.ts';
import type { UnpackQueue } from '../../src/queue/producer.ts';
import { finished, runCli, startCli } from '../cli/run-cli.ts';
import { eventually, payload, queueFixture, type TestWorker } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';

/**
 * A server that is frozen keeps its connections and answers nothing, for longer than every time limit. Producers, commands and
 * board must end with a sentence; a worker must notice it, continue its jobs, and go on when the server answers again.
 */
describe('a frozen Redis', () => {
  const fixture = queueFixture();
  const released = Promise.withResolvers<void>();
  let settings: ReturnType<typeof fixture.settings>;
  let queue: UnpackQueue;
  let worker: TestWorker;
  let board: Awaited<ReturnType<typeof startBoard>>;
  let running: string;
  let runs = 0;
  const env = () => ({ REDIS_URL: fixture.redis.url, UNPACK_QUEUE: settings.UNPACK_QUEUE });
  const says = /Redis at redis:\/\/127\.0\.0\.1:\d+ is not available: [^\n]+/;

  /** What had begun before the server froze. */
  const begun: { watch?: ReturnType<typeof startCli>; wait?: Promise<unknown> } = {};

  before(async () => {
    settings = fixture.settings();
    queue = fixture.producer(settings, 5000);
    worker = await fixture.worker(settings, async ({ onResolved, bucket }) => {
      if (bucket !== 'long') return [image('applied')];
      runs += 1;
      onResolved?.([image('applying')]);
      await released.promise;
      return [image('applied')];
    });
    board = await startBoard({ ...settings, UNPACK_BOARD_PORT: 0 }, createLog(settings, { write: () => {} }));
    fixture.onEnd(() => board.close());
    fixture.onEnd(() => process.kill(fixture.redis.pid, 'SIGCONT'));
    running = (await queue.add(payload('long'))).id;
    await eventually('the job runs', async () => (await queue.status(running)).progress?.phase === 'unpacking');
    const watch = startCli(['status', running, '--watch'], { env: env() });
    begun.watch = watch;
    const admin = new Redis(fixture.redis.url);
    await eventually('it listens to events', async () => String(await admin.client('LIST')).includes('cmd=xread'));
    admin.disconnect();
    begun.wait = queue.wait(running);
    begun.wait.catch(() => {});
    process.kill(fixture.redis.pid, 'SIGSTOP');
  });

  describe('while it is frozen', { concurrency: true }, () => {
    test('every call of a producer fails with a sentence', async () => {
      const unavailable = { name: 'QueueUnavailableError', message: says };
      await Promise.all([
        assert.rejects(queue.add(payload('two')), unavailable),
        assert.rejects(queue.cancel(running), unavailable),
        assert.rejects(queue.overview(), unavailable),
        assert.rejects(queue.wait(running), unavailable),
        assert.rejects(begun.wait ?? Promise.resolve(), unavailable),
      ]);
    });

    for (const args of [
      ['enqueue', 's3://bucket/app:1', '--watch'],
      ['queue'],
      ['status', 'x'],
      ['cancel', 'x'],
      ['retry', 'x'],
    ]) {
      test(`unpackd ${args.join(' ')} ends with a sentence`, async () => {
        const { status, stderr } = await runCli(args, { env: env() });
        assert.match(stderr, says);
        assert.match(stderr, /^unpackd: \[REDIS_UNAVAILABLE\] [^\n]+\n$/);
        assert.ok(status !== 0 && status !== null);
      });
    }

    test('unpackd status --watch, which had begun before, ends with a sentence', async () => {
      const { status, stderr } = await finished(begun.watch ?? startCli([]));
      assert.match(stderr, says);
      assert.ok(status !== 0 && status !== null);
    });

    test('doctor reports it', async () => {
      const [check] = await checkRedis(settings);
      assert.equal(check?.status, 'fail');
      assert.match(check.finding, /^redis:\/\/127\.0\.0\.1:\d+ (is not available|does not answer)/);
    });

    test('the board answers with the sentence, and is not ready', async () => {
      for (const path of ['/', '/jobs', `/jobs/${running}`, '/workers', '/bull/api/queues']) {
        const answer = await fetch(`${board.url}${path}`);
        const text = await answer.text();
        assert.equal(answer.status, 503, `${path}: ${text.slice(0, 500)}`);
        assert.match(text, says, path);
      }
      assert.equal((await fetch(`${board.url}/healthz`)).status, 200);
      const ready = await fetch(`${board.url}/readyz`);
      assert.equal(ready.status, 503);
      assert.match(await ready.text(), /Redis/);
    });

    test('the worker notices it, and its job continues', async () => {
      assert.match((await worker.whyNotReady()) ?? '', /^Redis /);
      await eventually('it has logged it', () =>
        worker.log.some(({ msg }) => /^Redis is unreachable; /.test(String(msg))),
      );
      assert.equal(runs, 1);
    });
  });

  test('when it answers again, all go on, and a worker that has started meanwhile takes jobs', async () => {
    const late = fixture.worker({ ...settings, UNPACK_WORKER_NAME: 'late' }, () => [image('applied')]);
    assert.equal(await Promise.race([late, sleep(500, 'waits')]), 'waits');
    process.kill(fixture.redis.pid, 'SIGCONT');
    await late;
    const next = await eventually('jobs can be added', () => queue.add(payload('next')).catch(() => undefined));
    await queue.wait(next);
    released.resolve();
    await queue.wait(running);
    await eventually('the worker logs it', () => worker.log.some(({ msg }) => msg === 'Redis is back'));
    assert.equal(await worker.whyNotReady(), undefined);
    await eventually('the board is ready', async () => (await fetch(`${board.url}/readyz`)).status === 200);
    const { waiting, active, failed } = await queue.counts();
    assert.deepEqual({ waiting, active, failed }, { waiting: 0, active: 0, failed: 0 });
    await eventually('both workers send heartbeats', async () => (await queue.overview()).workers.length === 2);
  });
});
