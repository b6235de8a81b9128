import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, type TestContext, test } from 'node:test';
import { Redis } from 'ioredis';
import { freePort } from '../../dev/local-programs.ts';
import type { LocalRedis } from '../../dev/redis-server.ts';
import { startRedis } from '../../dev/redis-server.ts';
import { startBoard } from '../../src/board/board.ts';
import { checkRedis } from '../../src/doctor/redis.ts';
import { JobNotFoundError, QueueUnavailableError } from '../../src/queue/errors.ts';
import { createLog } from '../../src/queue/log.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import { UnpackWorker } from '../../src/queue/worker.ts';
import { scratch } from '../support/scratch.ts';
import { CONNECTION, eventually, payload, testSettings } from './queue-fixture.ts';
import { image, scriptedUnpacker } from './scripted-unpacker.ts';

/**
 * Every state in which a real Redis refuses what a queue needs. Producer, worker, doctor and board must name the state and say
 * what to do, and must not report an error of this program.
 */
interface State {
  readonly title: string;
  readonly flags?: readonly string[];
  /** From the server's own URL; default: that. */
  readonly url?: (url: string) => string;
  readonly prepare?: (redis: Redis) => Promise<unknown>;
  readonly says: RegExp;
  /** Whether a worker waits for the end of it, or ends its start. */
  readonly worker: 'waits' | 'ends';
}

/** Everything that is open. It is closed in the reverse order. */
class Opened {
  readonly #closing: (() => Promise<unknown> | unknown)[] = [];

  push(close: () => Promise<unknown> | unknown): void {
    this.#closing.push(close);
  }

  async close(): Promise<void> {
    for (let close = this.#closing.pop(); close !== undefined; close = this.#closing.pop()) await close();
  }
}

const folder = scratch();
after(() => folder[Symbol.dispose]());

const file = (name: string, text = '') => {
  if (text !== '') writeFileSync(join(folder.path, name), text);
  return join(folder.path, name);
};
const acl = file(
  'users.acl',
  'user default on nopass ~* &* +@all\nuser other on >pw ~other:* &* +@all\nuser noscript on >pw ~* &* +@all -@scripting\n',
);
const makeCertificate = () => {
  const args = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost'];
  execFileSync('openssl', [...args, '-keyout', file('key.pem'), '-out', file('cert.pem')], { stdio: 'ignore' });
};
const withUser = (user: string) => (url: string) => url.replace('://', `://${user}@`);
const fill = (redis: Redis) =>
  redis
    .eval("for i = 1, 20000 do redis.call('SET', 'k' .. i, string.rep('x', 100)) end", 0)
    .then(() => redis.config('SET', 'maxmemory', '1mb'));

const STATES: readonly State[] = [
  {
    title: 'a password that is not given (NOAUTH)',
    prepare: (redis) => redis.config('SET', 'requirepass', 's3cr3t-one'),
    says: /needs a password: write it in REDIS_URL .*percent-encoded.* or in the file that REDIS_PASSWORD_FILE names/,
    worker: 'ends',
  },
  {
    title: 'another password (WRONGPASS)',
    prepare: (redis) => redis.config('SET', 'requirepass', 's3cr3t-one'),
    url: withUser(':s3cr3t-two'),
    says: /refuses this user and password: correct them in REDIS_URL/,
    worker: 'ends',
  },
  {
    title: 'a user without rights on the keys (NOPERM)',
    flags: ['--aclfile', acl],
    url: withUser('other:pw'),
    says: /does not permit this user .*ACL SETUSER/,
    worker: 'ends',
  },
  {
    title: 'a user without rights on scripts (NOPERM)',
    flags: ['--aclfile', acl],
    url: withUser('noscript:pw'),
    says: /does not permit this user .*ACL SETUSER/,
    worker: 'ends',
  },
  {
    title: 'a cluster without slots (CLUSTERDOWN)',
    flags: ['--cluster-enabled', 'yes'],
    says: /is a cluster that is down \(CLUSTERDOWN\): /,
    worker: 'waits',
  },
  {
    title: 'a cluster (CROSSSLOT)',
    flags: ['--cluster-enabled', 'yes'],
    prepare: (redis) =>
      redis
        .cluster('ADDSLOTSRANGE', 0, 16383)
        .then(() =>
          eventually('the cluster serves', async () => (await redis.cluster('INFO')).includes('cluster_state:ok')),
        ),
    says: /is a cluster, and a queue cannot use several slots: .*UNPACK_REDIS_PREFIX=\{bull\}/,
    worker: 'ends',
  },
  {
    title: 'a replica (READONLY)',
    prepare: (redis) => redis.replicaof('127.0.0.1', 1),
    says: /accepts no writes, because it is a replica: set REDIS_URL to the primary/,
    worker: 'waits',
  },
  {
    title: 'a replica that lost its primary (MASTERDOWN)',
    prepare: async (redis) => {
      await redis.config('SET', 'replica-serve-stale-data', 'no');
      await redis.replicaof('127.0.0.1', 1);
    },
    says: /is a replica that has lost its primary: |accepts no writes, because it is a replica: /,
    worker: 'waits',
  },
  {
    title: 'a full memory (OOM)',
    prepare: fill,
    says: /has no free memory \(maxmemory\): give it more/,
    worker: 'waits',
  },
  {
    title: 'a disk that takes no snapshot (MISCONF)',
    flags: ['--dir', folder.path, '--dbfilename', 'is-a-folder', '--save', '3600 1'],
    prepare: async (redis) => {
      mkdirSync(join(folder.path, 'is-a-folder'));
      await redis.set('some', 'change');
      await redis.bgsave();
      await eventually('the snapshot has failed', async () =>
        (await redis.info('persistence')).includes('rdb_last_bgsave_status:err'),
      );
    },
    says: /accepts no writes, because it cannot save its data to disk .*: free space/,
    worker: 'waits',
  },
  {
    title: 'too few replicas (NOREPLICAS)',
    flags: ['--min-replicas-to-write', '1'],
    says: /accepts no writes, because it has too few replicas/,
    worker: 'waits',
  },
  {
    title: 'no scripts (unknown command)',
    flags: ['--rename-command', 'EVALSHA', '', '--rename-command', 'EVAL', ''],
    says: /does not know a command that the queue needs/,
    worker: 'ends',
  },
  {
    title: 'a database that is not there',
    url: (url) => `${url}/99`,
    says: /has no database with the number at the end of REDIS_URL/,
    worker: 'ends',
  },
  {
    title: 'TLS spoken to a server without',
    url: (url) => url.replace('redis:', 'rediss:'),
    says: /does not use TLS: write redis:\/\//,
    worker: 'ends',
  },
];

// much of it is waiting, for a server or for what a worker says next
describe('states of Redis', { concurrency: 4 }, () => {
  for (const state of STATES) describe(state.title, () => states(state));

  test('a worker continues by itself when Redis has memory again, and logs that once', async (t) => {
    const opened = openedBy(t);
    const server = await serverIn({ title: '', prepare: fill, says: /x/, worker: 'waits' }, opened);
    const settings = testSettings(server.url);
    const { worker, lines } = makeWorker(settings, opened);
    await worker.start();
    await eventually('it waits', () => lines.length === 1);
    const admin = new Redis(server.url);
    opened.push(() => admin.disconnect());
    await admin.config('SET', 'maxmemory', '0');
    const queue = new UnpackQueue(settings);
    opened.push(() => queue.close());
    await queue.wait(await queue.add(payload('one')));
    await eventually('it has said so', () => lines.some(({ msg }) => msg === 'Redis is back'));
    assert.equal(await worker.whyNotReady(60_000), undefined);
    assert.equal(lines.filter(({ msg }) => /^Redis /.test(String(msg))).length, 2);
  });

  test('doctor tells how full the memory is, whether jobs can be evicted, and whether there is a copy on disk', async (t) => {
    const opened = openedBy(t);
    const server = await startRedis();
    opened.push(() => server.stop());
    const admin = new Redis(server.url);
    opened.push(() => admin.disconnect());
    const settings = testSettings(server.url);
    const check = async (name: string, more: { UNPACK_REDIS_REPLICAS?: number } = {}) => {
      const found = (await checkRedis({ ...settings, ...more })).find((one) => one.name === name);
      return `${found?.status}: ${found?.finding}`;
    };
    assert.match(
      await check('Redis memory'),
      /^ok: maxmemory-policy noeviction; [\d.]+ [KM]iB in use, without a limit/,
    );
    assert.equal(await check('Redis persistence'), 'warn: no append-only file; no snapshot since the server started');
    assert.equal(
      await check('Redis replicas', { UNPACK_REDIS_REPLICAS: 1 }),
      'fail: a primary with 0 connected replicas, but UNPACK_REDIS_REPLICAS=1: no job can be added',
    );
    await admin.save();
    assert.match(await check('Redis persistence'), /^warn: no append-only file; last snapshot \d{4}-/);
    await admin.config('SET', 'appendonly', 'yes', 'maxmemory', '100mb', 'maxmemory-policy', 'allkeys-lru');
    assert.match(await check('Redis persistence'), /^ok: append-only file$/);
    assert.match(
      await check('Redis memory'),
      /^fail: maxmemory-policy allkeys-lru; .* of 100 MiB \(maxmemory\) in use: /,
    );
    await admin.eval("redis.call('SET', 'large', string.rep('x', 50000000))", 0);
    const used = Number(/^used_memory:(\d+)/m.exec(await admin.info('memory'))?.[1]);
    await admin.config('SET', 'maxmemory-policy', 'noeviction', 'maxmemory', String(Math.ceil(used * 1.05)));
    assert.match(await check('Redis memory'), /^warn: .* MiB \(maxmemory\) in use: jobs are refused when it is full$/);
  });

  test('a server with TLS is distinguished from an unreachable one, and a wrong certificate is reported', async (t) => {
    const opened = openedBy(t);
    makeCertificate();
    const port = await freePort();
    const own = [file('cert.pem'), file('key.pem'), file('cert.pem')];
    const names = ['--tls-cert-file', '--tls-key-file', '--tls-ca-cert-file'];
    // its ordinary port is what it is started by
    const flags = ['--tls-port', String(port), ...names.flatMap((name, index) => [name, own[index] ?? ''])];
    const server = await startRedis({ flags });
    opened.push(() => server.stop());
    for (const [scheme, says] of [
      ['redis', /uses TLS: write rediss:\/\//],
      ['rediss', /has a certificate that this machine does not trust .*REDIS_TLS_CA/],
    ] as const) {
      const settings = testSettings(`${scheme}://127.0.0.1:${port}`);
      const queue = new UnpackQueue(settings);
      opened.push(() => queue.close());
      await assert.rejects(queue.add(payload('one')), refused(says));
      const { worker } = makeWorker(settings, opened);
      await assert.rejects(worker.start(), refused(says));
      const [check] = await checkRedis(settings);
      assert.match(`${check?.finding}: ${check?.advice}`, says);
    }
  });

  test('a worker waits for a server that loads its data, and the producer reports it (LOADING)', async (t) => {
    const opened = openedBy(t);
    const server = await startRedis({ flags: ['--appendonly', 'yes', '--enable-debug-command', 'local'] });
    opened.push(() => server.stop());
    const admin = new Redis(server.url);
    opened.push(() => admin.disconnect());
    admin.on('error', () => {});
    await admin.eval("for i = 1, 60000 do redis.call('SET', 'k' .. i, 'x') end", 0);
    await admin.config('SET', 'key-load-delay', '200');
    // microseconds for each key; other clients are heard after every thousand
    const loading = admin.call('DEBUG', 'LOADAOF').catch(() => {});
    await eventually('it loads', async () => {
      const look = new Redis(server.url, { enableReadyCheck: false });
      look.on('error', () => {});
      const info = await look.info('persistence').catch(() => '');
      look.disconnect();
      return info.includes('loading:1');
    });
    const settings = testSettings(server.url);
    const queue = new UnpackQueue(settings, 1000);
    opened.push(() => queue.close());
    await assert.rejects(queue.add(payload('one')), refused(/is still loading its data from disk: wait until it has/));
    const [check] = await checkRedis(settings);
    assert.match(`${check?.finding}: ${check?.advice}`, /is still loading its data from disk/);
    const { worker, lines } = makeWorker(settings, opened);
    void worker.start().catch(() => {});
    await eventually('it has said so', () => lines.some(({ msg }) => /is still loading its data/.test(String(msg))));
    assert.equal(lines.length, 1);
    void loading;
  });
});

function openedBy(t: TestContext): Opened {
  const opened = new Opened();
  t.after(() => opened.close());
  return opened;
}

function states(state: State): void {
  const opened = new Opened();
  after(() => opened.close());
  let redis: Promise<LocalRedis> | undefined;
  const server = () => {
    redis ??= serverIn(state, opened);
    return redis;
  };
  const settings = async () => testSettings((state.url ?? ((url) => url))((await server()).url));

  test('the producer throws a QueueUnavailableError', async () => {
    const queue = new UnpackQueue(await settings());
    opened.push(() => queue.close());
    await assert.rejects(queue.add(payload('one')), refused(state.says));
    // these may be allowed what adding is not
    const typed = (error: unknown) => error instanceof QueueUnavailableError || error instanceof JobNotFoundError;
    await assert.rejects(queue.status('x'), typed);
    await assert.rejects(queue.cancel('x'), typed);
  });

  test(`a worker ${state.worker === 'waits' ? 'logs it in one line, is not ready, and waits' : 'does not start, and reports it'}`, async () => {
    const { worker, lines } = makeWorker(await settings(), opened);
    if (state.worker === 'ends') return assert.rejects(worker.start(), refused(state.says));
    await worker.start();
    await eventually('it has said so', () => lines.some(({ msg }) => state.says.test(String(msg))));
    assert.match((await worker.whyNotReady(1000)) ?? '', state.says);
    // every connection of the worker meets it, and several times
    const admin = new Redis((await server()).url);
    opened.push(() => admin.disconnect());
    const before = await refusals(admin);
    await eventually('it was refused again and again', async () => (await refusals(admin)) >= before + 5);
    assert.equal(lines.length, 1, JSON.stringify(lines));
    assert.doesNotMatch(JSON.stringify(lines), /\\n +at |stack/);
  });

  test('doctor reports it', async () => {
    const [check] = await checkRedis(await settings());
    assert.equal(check?.status, 'fail');
    assert.match(`${check.finding}: ${check.advice}`, state.says);
  });

  test('the board runs and reports it', async () => {
    const board = await startBoard(
      { ...(await settings()), UNPACK_BOARD_PORT: 0 },
      createLog(await settings(), { write: () => {} }),
    );
    opened.push(() => board.close());
    const answer = await fetch(`${board.url}/bull/api/queues`);
    const text = await answer.text();
    if (answer.status !== 200) {
      assert.equal(answer.status, 503);
      assert.match(text, /Redis at rediss?:/);
    }
    assert.doesNotMatch(text, /node_modules|\\n +at /);
  });
}

/** The number of commands that the server has refused. */
async function refusals(redis: Redis): Promise<number> {
  const counts = (await redis.info('errorstats')).matchAll(/^errorstat_\w+:count=(\d+)/gm);
  return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
}

async function serverIn(state: State, opened: Opened): Promise<LocalRedis> {
  const server = await startRedis({ flags: state.flags ?? [] });
  opened.push(() => server.stop());
  if (state.prepare !== undefined) {
    const redis = new Redis(server.url);
    await state.prepare(redis);
    redis.disconnect();
  }
  return server;
}

function makeWorker(settings: ReturnType<typeof testSettings>, opened: Opened) {
  const lines: Record<string, unknown>[] = [];
  const worker = new UnpackWorker({
    settings,
    unpacker: scriptedUnpacker(async () => [image('applied')]),
    policy: { connection: CONNECTION, buckets: [] },
    store: { root: '/store', snapshotter: 'overlay' },
    log: createLog(settings, { write: (line) => lines.push(JSON.parse(line)) }),
  });
  opened.push(() => worker.close());
  return { worker, lines };
}

/** Asserts one sentence with the address of the server and without the password. */
function refused(says: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof QueueUnavailableError, String(error));
    assert.match(error.message, /^Redis at rediss?:\/\/127\.0\.0\.1:\d+(\/\d+)? [^\n]+$/);
    assert.match(error.message, says);
    assert.doesNotMatch(error.message, /s3cr3t/);
    return true;
  };
}
