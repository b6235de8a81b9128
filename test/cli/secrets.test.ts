import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Redis } from 'ioredis';
import { type LocalRedis, startRedis } from '../../dev/redis-server.ts';
import { startBoard } from '../../src/board/board.ts';
import { loadConfig } from '../../src/config.ts';
import { createLog } from '../../src/queue/log.ts';
import { eventually } from '../support/eventually.ts';
import { scratch } from '../support/scratch.ts';
import { finished, runCli, startCli } from './run-cli.ts';

/** A word in every secret of this file, so that a piece of a secret is found, too. */
const WORD = 'zq7vw';
const PASSWORD = `${WORD}@/?#% ${WORD}`;
const folder = scratch();
let redis: LocalRedis;
before(async () => {
  redis = await startRedis();
  const admin = new Redis(redis.url);
  await admin.config('SET', 'requirepass', PASSWORD);
  admin.disconnect();
  writeFileSync(join(folder.path, 'password'), `${PASSWORD}\n`);
  writeFileSync(join(folder.path, 'wrong'), `${PASSWORD}-wrong\n`);
});
after(async () => {
  await redis.stop();
  folder[Symbol.dispose]();
});

test('no command prints a secret, whichever setting it is in, valid or not', async () => {
  const host = redis.url.replace('redis://', '');
  const others = {
    UNPACK_BOARD_USER: 'ann',
    UNPACK_BOARD_PASSWORD: PASSWORD,
    AWS_ACCESS_KEY_ID: 'AKIA',
    AWS_SECRET_ACCESS_KEY: PASSWORD,
    AWS_SESSION_TOKEN: PASSWORD,
    UNPACK_LOG_LEVEL: 'debug',
  };
  const environments: readonly Record<string, string>[] = [
    { REDIS_URL: `redis://:${PASSWORD}@${host}` },
    { REDIS_URL: `redis://user:${encodeURIComponent(PASSWORD)}@${host}` },
    { REDIS_URL: `redis://:${encodeURIComponent(PASSWORD)}@127.0.0.1:1` },
    { REDIS_URL: `redis://${WORD}@${host}` },
    { REDIS_URL: `redis://${host}?password=${WORD}` },
    { REDIS_URL: redis.url, REDIS_PASSWORD_FILE: join(folder.path, 'wrong') },
    { REDIS_URL: redis.url, S3_ENDPOINT: `http://key:${WORD}/${WORD}@s3.example` },
    { UNPACK_ROOT: `redis://:${PASSWORD}@host`, UNPACK_GRACE: `redis://:${WORD}/${WORD}@host` },
  ];
  const commands = [
    ['settings', '--json'],
    ['enqueue', 's3://bucket/app:1'],
    ['doctor', '--root', '/proc/nowhere'],
  ];
  for (const env of environments) {
    for (const args of commands) {
      const { stdout, stderr } = await runCli(args, { env: { ...others, ...env } });
      assert.doesNotMatch(`${stdout}${stderr}`, new RegExp(WORD), `${JSON.stringify(env)} ${args.join(' ')}`);
    }
  }
});

test('a password file may contain any characters, and the job does not contain them', async () => {
  const env = { REDIS_URL: redis.url, REDIS_PASSWORD_FILE: join(folder.path, 'password') };
  const { status, stderr } = await runCli(['enqueue', 's3://bucket/app:1'], { env });
  assert.equal(status, 0, stderr);
  const admin = new Redis(redis.url, { password: PASSWORD });
  try {
    for (const key of await admin.keys('*')) {
      if ((await admin.type(key)) !== 'hash') continue;
      assert.doesNotMatch(JSON.stringify(await admin.hgetall(key)), new RegExp(WORD));
    }
  } finally {
    admin.disconnect();
  }
});

test('no log line of a worker at trace level and no page of the board contains a secret', async () => {
  const settings = {
    REDIS_URL: redis.url,
    REDIS_PASSWORD_FILE: join(folder.path, 'password'),
    UNPACK_QUEUE: 'board',
    UNPACK_LOG_FORMAT: 'json',
  };
  const env = {
    ...settings,
    UNPACK_LOG_LEVEL: 'trace',
    UNPACK_ROOT: join(folder.path, 'store'),
    UNPACK_SNAPSHOTTER: 'native',
    UNPACK_OWNERSHIP: 'squash',
    S3_ENDPOINT: 'http://127.0.0.1:1',
    AWS_ACCESS_KEY_ID: WORD,
    AWS_SECRET_ACCESS_KEY: PASSWORD,
    AWS_SESSION_TOKEN: PASSWORD,
  };
  const worker = startCli(['worker'], { env });
  const workerEnd = finished(worker);
  const watched = await runCli(['enqueue', 's3://bucket/app:2', '--watch', '--attempts', '1', '--json'], { env });
  const { id } = JSON.parse(watched.stdout);
  worker.kill('SIGTERM');
  const { stdout, stderr } = await workerEnd;
  assert.match(stdout, /SOURCE_UNAVAILABLE/);

  const pages: string[] = [];
  for (const file of ['password', 'wrong']) {
    const lines: string[] = [];
    const config = loadConfig(
      {
        ...settings,
        REDIS_PASSWORD_FILE: join(folder.path, file),
        UNPACK_BOARD_PORT: '0',
        UNPACK_BOARD_USER: 'ann',
        UNPACK_BOARD_PASSWORD: PASSWORD,
        UNPACK_LOG_LEVEL: 'trace',
      },
      {},
    );
    const board = await startBoard(config, createLog(config, { write: (line) => lines.push(line) }));
    try {
      const isReady = async () => (await fetch(`${board.url}/readyz`)).status === 200;
      const isRefused = async () => (await (await fetch(`${board.url}/readyz`)).text()).includes('refuses this user');
      await eventually('the board knows its Redis', file === 'password' ? isReady : isRefused);
      const authorization = `Basic ${btoa(`ann:${PASSWORD}`)}`;
      for (const path of [
        ...['', 'readyz', 'metrics', 'nothing', 'jobs?state=failed', `jobs/${id}`, `jobs/${id}/raw/data`, 'workers'],
        ...['bull/api/queues?activeQueue=board&status=failed', 'bull/api/redis/stats'],
        ...[`bull/api/queues/board/${id}`, `bull/api/queues/board/${id}/logs`],
      ]) {
        pages.push(await (await fetch(`${board.url}/${path}`, { headers: { authorization } })).text());
        pages.push(await (await fetch(`${board.url}/${path}`)).text());
      }
    } finally {
      await board.close();
    }
    pages.push(...lines);
  }
  assert.ok(pages.some((page) => page.includes('SOURCE_UNAVAILABLE')));
  const encoded = encodeURIComponent(PASSWORD);
  for (const text of [stdout, stderr, watched.stdout, watched.stderr, ...pages]) {
    assert.doesNotMatch(text, new RegExp(WORD));
    assert.equal(text.includes(encoded), false);
  }
});
