import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import { freePort } from '../../dev/local-programs.ts';
import { type LocalRedis, startRedis } from '../../dev/redis-server.ts';
import { startBoard } from '../../src/board/board.ts';
import { checkRedis } from '../../src/doctor/redis.ts';
import { QueueUnavailableError } from '../../src/queue/errors.ts';
import { createLog } from '../../src/queue/log.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import { UnpackWorker } from '../../src/queue/worker.ts';
import { type Certificates, makeCertificates } from '../support/certificates.ts';
import {
  type Deployment,
  PRIMARY_NAME,
  type SentinelDeployment,
  startCluster,
  startSentinels,
} from '../support/redis-deployments.ts';
import { scratch } from '../support/scratch.ts';
import { CONNECTION, eventually, payload, testSettings } from './queue-fixture.ts';
import { image, scriptedUnpacker } from './scripted-unpacker.ts';

/** Faults of sentinels, clusters and TLS. Producer, worker, doctor and board must each name the cause in one sentence. */

const folder = scratch();
after(() => folder[Symbol.dispose]());
const file = (name: string, text: string) => {
  const path = join(folder.path, name);
  writeFileSync(path, text);
  return path;
};

/** Asserts what producer, worker, doctor and board say. @param worker whether a worker waits, or ends its start */
async function say(t: TestContext, env: Record<string, string>, says: RegExp, worker: 'waits' | 'ends'): Promise<void> {
  const { REDIS_URL: url = '', ...more } = env;
  const settings = testSettings(url, { UNPACK_REDIS_PREFIX: '{bull}', ...more });
  const queue = new UnpackQueue(settings);
  t.after(() => queue.close());
  const lines: Record<string, unknown>[] = [];
  const { promise: logged, resolve } = Promise.withResolvers<void>();
  const made = new UnpackWorker({
    settings,
    unpacker: scriptedUnpacker(async () => [image('applied')]),
    policy: { connection: CONNECTION, buckets: [] },
    store: { root: '/store', snapshotter: 'overlay' },
    log: createLog(settings, {
      write: (line) => {
        lines.push(JSON.parse(line));
        if (says.test(line)) resolve();
      },
    }),
  });
  t.after(() => made.close());
  const right = (error: unknown) => {
    assert.ok(error instanceof QueueUnavailableError, String(error));
    assert.match(error.message, /^Redis at rediss?(\+\w+)?:\/\/[^\n]+$/);
    assert.match(error.message, says);
    assert.doesNotMatch(error.message, /s3cr3t|undefined|AggregateError/);
    return true;
  };
  const started = made.start();
  started.catch(() => {});
  await assert.rejects(queue.add(payload('one')), right);
  if (worker === 'ends') await assert.rejects(started, right);
  else await logged;
  const [check] = await checkRedis(settings);
  assert.equal(check?.status, 'fail');
  assert.match(`${check.finding}: ${check.advice}`, says);
  const board = await startBoard({ ...settings, UNPACK_BOARD_PORT: 0 }, createLog(settings, { write: () => {} }));
  t.after(() => board.close());
  await eventually('the board shows it', async () => {
    const answer = await fetch(board.url);
    const text = await answer.text();
    assert.equal(answer.status, 503);
    assert.doesNotMatch(text, /s3cr3t|node_modules|undefined/);
    return says.test(text);
  });
  assert.doesNotMatch(JSON.stringify([lines, check]), /s3cr3t|\\n +at /);
}

describe('sentinels', () => {
  let deployment: SentinelDeployment;
  before(async () => {
    const lines = ['requirepass s3cr3t-sentinel'];
    deployment = await startSentinels({ replicas: 0, password: 's3cr3t-data', sentinelLines: lines });
  });
  after(() => deployment[Symbol.asyncDispose]());
  const password = file('sentinel-password', 's3cr3t-sentinel\n');
  const env = (more: Record<string, string> = {}) => ({
    REDIS_URL: deployment.url.replace('://', '://:s3cr3t-data@'),
    REDIS_SENTINEL_PASSWORD_FILE: password,
    ...more,
  });

  test('a name that they do not know', (t) =>
    say(
      t,
      env({ REDIS_URL: deployment.url.replace(PRIMARY_NAME, 'other') }),
      /is not known to its sentinels as other: correct the name/,
      'ends',
    ));
  test('no password', (t) =>
    say(
      t,
      { REDIS_URL: deployment.url },
      /has a sentinel, 127.0.0.1:\d+, that needs a password: write it in the file that REDIS_SENTINEL_PASSWORD_FILE names/,
      'ends',
    ));
  test('a wrong password', (t) =>
    say(
      t,
      env({ REDIS_SENTINEL_PASSWORD_FILE: file('wrong', 's3cr3t-wrong') }),
      /has a sentinel, 127.0.0.1:\d+, that refuses this user and password: correct REDIS_SENTINEL_USERNAME/,
      'ends',
    ));
  test('a wrong password of the primary', (t) =>
    say(
      t,
      env({ REDIS_URL: deployment.url.replace('://', '://:s3cr3t-wrong@') }),
      / refuses this user and password: correct them in REDIS_URL/,
      'ends',
    ));
  test('TLS to sentinels without it', (t) =>
    say(
      t,
      env({ REDIS_URL: deployment.url.replace('redis', 'rediss') }),
      /has a sentinel, 127.0.0.1:\d+, that does not use TLS: write redis\+sentinel:/,
      'ends',
    ));
  test('a server that is not a sentinel', (t) => {
    const url = `redis+sentinel://:s3cr3t-data@127.0.0.1:${deployment.servers[0]?.port}/${PRIMARY_NAME}`;
    const own = file('data-password', 's3cr3t-data');
    return say(
      t,
      { REDIS_URL: url, REDIS_SENTINEL_PASSWORD_FILE: own },
      /has a sentinel, \S+, that is not a sentinel: correct host and port/,
      'ends',
    );
  });
  test('a sentinel where a server is expected', (t) =>
    say(
      t,
      { REDIS_URL: `redis://:s3cr3t-sentinel@127.0.0.1:${deployment.sentinels[0]?.port}` },
      /is a sentinel: write redis\+sentinel:\/\/127.0.0.1:\d+\/NAME/,
      'ends',
    ));
  test('one sentinel is down: nothing is wrong', async (t) => {
    await deployment.sentinels[0]?.kill();
    const settings = testSettings(env().REDIS_URL, { ...env(), UNPACK_REDIS_PREFIX: '{bull}' });
    const queue = new UnpackQueue(settings);
    t.after(() => queue.close());
    await queue.add(payload('one'));
  });
  test('all sentinels are down', async (t) => {
    for (const sentinel of deployment.sentinels) await sentinel.kill();
    await say(
      t,
      env(),
      /is not available: none of its sentinels answers \(127.0.0.1:\d+: connect ECONNREFUSED/,
      'waits',
    );
  });
});

describe('a cluster', () => {
  let deployment: Deployment;
  before(async () => {
    deployment = await startCluster();
  });
  after(() => deployment[Symbol.asyncDispose]());

  test('a server that is not in a cluster', async (t) => {
    const server = await startRedis();
    t.after(() => server.stop());
    await say(
      t,
      { REDIS_URL: server.url.replace('redis', 'redis+cluster') },
      /has a node, \S+, that is not in a cluster: write redis:/,
      'ends',
    );
  });
  test('one node of it, as a server', async (t) => {
    const primary = await deployment.primary();
    const other = deployment.servers.find((server) => server !== primary) ?? primary;
    await say(
      t,
      { REDIS_URL: other.url },
      /is one node of a cluster, .*: write redis\+cluster:.*UNPACK_REDIS_PREFIX=\{bull\}/,
      'ends',
    );
  });
  test('a slot that moves to another node: refused while it moves, then used there', async (t) => {
    const from = await deployment.primary();
    const admin = deployment.admin(from);
    const slot = String(await admin.call('CLUSTER', 'KEYSLOT', '{bull}'));
    const primaries: LocalRedis[] = [];
    for (const server of deployment.servers) {
      if (/^role:master/m.test(await deployment.admin(server).info('replication'))) primaries.push(server);
    }
    const to = primaries.find((server) => server !== from) ?? from;
    const id = async (server: LocalRedis) => String(await deployment.admin(server).call('CLUSTER', 'MYID'));
    const settings = testSettings(deployment.url, { UNPACK_REDIS_PREFIX: '{bull}' });
    const queue = new UnpackQueue(settings);
    t.after(() => queue.close());
    await queue.add(payload('one'));
    await deployment.admin(to).call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', await id(from));
    await admin.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', await id(to));
    const moving = new UnpackQueue({ ...settings, UNPACK_QUEUE: 'other' }, 2000);
    t.after(() => moving.close());
    await assert.rejects(
      moving.add(payload('two')),
      /moves the queue to another node of the cluster: wait until its slot has been moved/,
    );
    const keys = (await admin.call('CLUSTER', 'GETKEYSINSLOT', slot, '1000')) as string[]; // a list of names
    await admin.call('MIGRATE', '127.0.0.1', String(to.port), '', '0', '5000', 'KEYS', ...keys);
    for (const server of [to, from])
      await deployment.admin(server).call('CLUSTER', 'SETSLOT', slot, 'NODE', await id(to));
    const { waiting } = await queue.counts();
    assert.equal(waiting, 1);
    await queue.add(payload('three'));
  });
  test('most of its nodes are down', async (t) => {
    for (const server of deployment.servers.slice(1)) await server.kill();
    const [left] = deployment.servers;
    assert.ok(left !== undefined);
    await eventually('the node has noticed it', async () =>
      (await deployment.admin(left).cluster('INFO')).includes('cluster_state:fail'),
    );
    await say(t, { REDIS_URL: deployment.url }, /is a cluster that is down \(CLUSTERDOWN\): start its nodes/, 'waits');
  });
});

describe('TLS', () => {
  let certificates: Certificates;
  const servers: Record<string, LocalRedis & { readonly tls: number }> = {};
  before(async () => {
    certificates = makeCertificates(folder.path);
    const { ca, server, expired } = certificates;
    for (const [name, pair, auth] of [
      ['open', server, 'no'],
      ['mutual', server, 'yes'],
      ['expired', expired, 'no'],
    ] as const) {
      const tls = await freePort();
      const flags = ['--tls-port', String(tls), '--tls-cert-file', pair.cert, '--tls-key-file', pair.key];
      const started = await startRedis({ flags: [...flags, '--tls-ca-cert-file', ca, '--tls-auth-clients', auth] });
      servers[name] = Object.assign(started, { tls });
    }
  });
  after(async () => {
    for (const server of Object.values(servers)) await server.stop();
  });
  const url = (name: string, host = 'localhost') => `rediss://${host}:${servers[name]?.tls}`;
  const client = () => ({
    REDIS_TLS_CA: certificates.ca,
    REDIS_TLS_CERT: certificates.client.cert,
    REDIS_TLS_KEY: certificates.client.key,
  });

  test('a private CA and a client certificate with an encrypted key', async (t) => {
    const { encryptedKey, password } = certificates;
    const env = {
      ...client(),
      REDIS_TLS_KEY: encryptedKey,
      REDIS_TLS_KEY_PASSWORD_FILE: file('key-password', password),
    };
    const queue = new UnpackQueue(testSettings(url('mutual'), env));
    t.after(() => queue.close());
    await queue.add(payload('one'));
    for (const [more, says] of [
      [
        { ...env, REDIS_TLS_KEY_PASSWORD_FILE: file('other', 's3cr3t-no') },
        /^REDIS_TLS_KEY=\S+ cannot be decrypted with the password/,
      ],
      [{ ...client(), REDIS_TLS_KEY: encryptedKey }, /^REDIS_TLS_KEY=\S+ is encrypted: write its password/],
      [
        { ...client(), REDIS_TLS_KEY: certificates.server.key },
        /^REDIS_TLS_KEY=\S+ is not the key of the certificate in REDIS_TLS_CERT/,
      ],
      [
        { ...client(), REDIS_TLS_CA: file('text', 'no certificate') },
        /^REDIS_TLS_CA=\S+: the file has no certificate in PEM format/,
      ],
      [{ ...client(), REDIS_TLS_CERT: join(folder.path, 'nothing') }, /^REDIS_TLS_CERT=\S+: the file does not exist/],
    ] as const) {
      assert.throws(() => new UnpackQueue(testSettings(url('mutual'), more)), { name: 'ConfigError', message: says });
    }
  });
  test('a name that the certificate does not have, and REDIS_TLS_SERVER_NAME', async (t) => {
    const ca = { REDIS_TLS_CA: certificates.ca };
    const named = new UnpackQueue(
      testSettings(url('open', '127.0.0.1'), { ...ca, REDIS_TLS_SERVER_NAME: 'localhost' }),
    );
    t.after(() => named.close());
    await named.add(payload('one'));
    await say(
      t,
      { REDIS_URL: url('open', '127.0.0.1'), ...ca },
      /has a certificate for another name: .*REDIS_TLS_SERVER_NAME/,
      'ends',
    );
  });
  test('an expired certificate', (t) =>
    say(
      t,
      { REDIS_URL: url('expired'), REDIS_TLS_CA: certificates.ca },
      /has a certificate that has expired: renew it/,
      'ends',
    ));
  test('a CA that is not trusted', (t) =>
    say(
      t,
      { REDIS_URL: url('open') },
      /has a certificate that this machine does not trust .*: set REDIS_TLS_CA/,
      'ends',
    ));
  test('no client certificate', (t) =>
    say(
      t,
      { REDIS_URL: url('mutual'), REDIS_TLS_CA: certificates.ca },
      /requires a client certificate: set REDIS_TLS_CERT and REDIS_TLS_KEY/,
      'ends',
    ));
  test('a client certificate of another CA', (t) => {
    const { cert, key } = certificates.foreign;
    return say(
      t,
      { REDIS_URL: url('mutual'), REDIS_TLS_CA: certificates.ca, REDIS_TLS_CERT: cert, REDIS_TLS_KEY: key },
      /refuses the client certificate \([a-z ]+\)/,
      'ends',
    );
  });
  test('TLS to the plain port', (t) =>
    say(
      t,
      { REDIS_URL: `rediss://localhost:${servers.open?.port}`, REDIS_TLS_CA: certificates.ca },
      /does not use TLS: write redis:\/\/localhost/,
      'ends',
    ));
  test('no TLS to the port with TLS', (t) =>
    say(t, { REDIS_URL: url('open').replace('rediss', 'redis') }, /uses TLS: write rediss:\/\/localhost/, 'ends'));
});
