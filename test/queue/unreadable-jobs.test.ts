import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { startBoard } from '../../src/board/board.ts';
import type { Config } from '../../src/config.ts';
import { UnreadableJobError } from '../../src/queue/errors.ts';
import { createLog } from '../../src/queue/log.ts';
import { readProgress } from '../../src/queue/progress-schema.ts';
import { finished, startCli } from '../cli/run-cli.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';

/** Jobs in the queue that another program, another version or a mistake has written. */
const fixture = queueFixture();

/** A job that a worker has completed with this return value. */
async function completed(settings: Config, returnvalue: unknown): Promise<string> {
  const { id } = await fixture.producer(settings).add(payload(`odd-${Math.random()}`), { deduplicate: false });
  const redis = new Redis(settings.REDIS_URL);
  const key = (name: string) => `bull:${settings.UNPACK_QUEUE}:${name}`;
  await redis
    .multi()
    .lrem(key('wait'), 0, id)
    .zadd(key('completed'), 1, id)
    .hset(key(id), 'finishedOn', Date.now(), 'returnvalue', JSON.stringify(returnvalue) ?? '')
    .exec();
  redis.disconnect();
  return id;
}

const run = (settings: Config, ...args: string[]) =>
  finished(startCli(args, { env: { REDIS_URL: settings.REDIS_URL, UNPACK_QUEUE: settings.UNPACK_QUEUE } }));

const ODD: readonly (readonly [unknown, RegExp])[] = [
  [undefined, /its return value is not a result of unpackd: check whether another program/],
  [null, /its return value is not a result of unpackd: check whether another program/],
  ['done', /its return value is not a result of unpackd: check whether another program/],
  [{ version: 2, images: {} }, /its result has version 2, and this program supports only version 1: update/],
  [{ version: 1, image: 'a', images: [{ layers: 5 }] }, /not a result of unpackd \(images\.0\.layers is wrong\)/],
];

for (const [returnvalue, says] of ODD) {
  test(`a job that returned ${JSON.stringify(returnvalue)} is reported by status, and ends wait with UnreadableJobError`, async () => {
    const settings = fixture.settings();
    const id = await completed(settings, returnvalue);
    const queue = fixture.producer(settings);
    const status = await queue.status(id);
    assert.equal(status.state, 'completed');
    assert.equal(status.result, undefined);
    assert.match(status.resultProblem ?? '', says);
    await assert.rejects(
      queue.wait(id),
      (error: unknown) => error instanceof UnreadableJobError && says.test(error.message),
    );
  });
}

test('the event of a completed job without a result ends a wait', async () => {
  const settings = fixture.settings();
  const bull = fixture.bull(settings);
  const { id } = await fixture.producer(settings).add(payload('one'));
  const waiting = assert.rejects(fixture.producer(settings).wait(id), UnreadableJobError);
  const redis = new Redis(settings.REDIS_URL);
  await eventually('it listens', async () => String(await redis.client('LIST')).includes('cmd=xread'));
  redis.disconnect();
  const { Worker } = await import('bullmq');
  const other = new Worker(settings.UNPACK_QUEUE, async () => 'done', { connection: { url: settings.REDIS_URL } });
  await waiting;
  await other.close();
  await bull.close();
});

test('status, --timeline and --watch say in one sentence that there is no result', async () => {
  const settings = fixture.settings();
  const id = await completed(settings, 'done');
  const status = await run(settings, 'status', id);
  assert.equal(status.status, 0, status.stderr);
  assert.match(status.stdout, /state {2}completed\n[\s\S]*its return value is not a result of unpackd/);
  for (const flags of [['--watch'], ['--timeline', '/nowhere/x.svg']]) {
    const { status, stderr } = await run(settings, 'status', id, ...flags);
    assert.match(stderr, /^unpackd: \[JOB_UNREADABLE\] job [^\n]+ is not a result of unpackd[^\n]+\n$/);
    assert.equal(status, 1);
  }
});

test('fields that are not JSON give one sentence on the command line, and hide no other job in the board', async () => {
  const settings = fixture.settings({ UNPACK_BOARD_PORT: '0' });
  const queue = fixture.producer(settings);
  const { id } = await queue.add(payload('one'));
  await queue.add(payload('two'));
  const redis = new Redis(settings.REDIS_URL);
  await redis.hset(`bull:${settings.UNPACK_QUEUE}:${id}`, 'data', '{"hidden');
  redis.disconnect();
  for (const args of [
    ['status', id],
    ['status', id, '--watch'],
    ['cancel', id],
  ]) {
    const { status, stderr } = await run(settings, ...args);
    assert.match(
      stderr,
      /^unpackd: \[JOB_UNREADABLE\] job [^\n]+ cannot be read, because its data in Redis is not JSON: [^\n]+\n$/,
    );
    assert.doesNotMatch(stderr, /hidden/);
    assert.equal(status, 1);
  }
  const board = await startBoard(settings, createLog(settings, { write: () => {} }));
  fixture.onEnd(() => board.close());
  await eventually('Redis is connected', async () => (await fetch(`${board.url}/readyz`)).status === 200);
  const path = `${board.url}/bull/api/queues?activeQueue=${settings.UNPACK_QUEUE}&status=waiting`;
  const answer = await fetch(path);
  const text = await answer.text();
  assert.equal(answer.status, 200, text);
  const names: string[] = JSON.parse(text).queues[0].jobs.map((job: { name: string }) => job.name);
  assert.deepEqual(names.sort(), ['cannot be read', 'registry.example/two:1']);
  assert.match(text, /its data in Redis is not JSON/);
});

test('a progress with invalid numbers is ignored', () => {
  const good = {
    ...{ version: 1, phase: 'unpacking', attempt: 1, attempts: 5, worker: 'w', layersDone: 0, layersTotal: 1 },
    ...{ bytesFetched: 0, bytesTotal: 5, bytesUnpacked: 0, images: [], failures: [], stallsBefore: 0 },
  };
  const waiting = { chainId: 'sha256:1', started: 1, since: 1, until: 1, times: 1, place: -1 };
  const layer = { chainId: 'sha256:1', phase: 'applying', size: 5, fetched: 0, unpacked: 0 };
  assert.ok(readProgress({ ...good, waiting, images: [{ layers: [layer] }] }) !== undefined);
  assert.equal(readProgress({ ...good, waiting: { ...waiting, until: 1e300 } }), undefined);
  assert.equal(readProgress({ ...good, images: [{ layers: [{ ...layer, fetched: -1 }] }] }), undefined);
});

test('fields that a newer version has added to a result are kept', async () => {
  const settings = fixture.settings();
  await fixture.worker(settings, () => [image('applied')]);
  const queue = fixture.producer(settings);
  const result = { ...(await queue.wait(await queue.add(payload('one')))), added: 'later' };
  const id = await completed(fixture.settings({ UNPACK_QUEUE: `${settings.UNPACK_QUEUE}-other` }), result);
  const other = fixture.producer(fixture.settings({ UNPACK_QUEUE: `${settings.UNPACK_QUEUE}-other` }));
  assert.deepEqual(await other.wait(id), result);
});
