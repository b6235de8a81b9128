import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { Redis } from 'ioredis';
import { startBoard } from '../../src/board/board.ts';
import type { Config } from '../../src/config.ts';
import { checkQueue } from '../../src/doctor/queue.ts';
import { checkRedis } from '../../src/doctor/redis.ts';
import { createLog } from '../../src/queue/log.ts';
import { startCluster, startSentinels } from '../support/redis-deployments.ts';
import { scratch } from '../support/scratch.ts';
import { eventually, payload, queueFixture, testSettings } from './queue-fixture.ts';
import { image, listing, presenceOf } from './scripted-unpacker.ts';

const fixture = queueFixture();
const folder = scratch();
const opened = new AsyncDisposableStack();
after(async () => {
  await opened.disposeAsync();
  folder[Symbol.dispose]();
});
const password = join(folder.path, 'password');
writeFileSync(password, 's3cr3t-acl\n');

/** The rules in the documentation: for servers, and for sentinels. */
function documentedRules(): string[][] {
  const text = readFileSync(new URL('../../docs/operations.md', import.meta.url), 'utf8');
  return [...text.matchAll(/^ {4}ACL SETUSER (unpackd .*)$/gm)].map(([, rule = '']) =>
    rule.replace('>PASSWORD', '>s3cr3t-acl').split(' '),
  );
}

/** The commands of a cluster's client, in the sentence after the rules. */
function documentedClusterCommands(): string[] {
  const text = readFileSync(new URL('../../docs/operations.md', import.meta.url), 'utf8');
  return /^A cluster needs also `([^`]+)`/m.exec(text)?.[1]?.split(' ') ?? [];
}

test('the documented users have the rights that workers, producers, board and doctor need, and no command is refused', async (t) => {
  const deployment = opened.use(await startSentinels({ replicas: 1 }));
  const [rule = [], ofSentinels = []] = documentedRules();
  const admins = deployment.servers.map(({ port }) => new Redis({ port }));
  const sentinels = deployment.sentinels.map(({ port }) => new Redis({ port, enableReadyCheck: false }));
  t.after(() => {
    for (const redis of [...admins, ...sentinels]) redis.disconnect();
  });
  for (const admin of admins) await admin.call('ACL', 'SETUSER', ...rule);
  for (const sentinel of sentinels) await sentinel.call('ACL', 'SETUSER', ...ofSentinels);
  const settings = testSettings(deployment.url.replace('://', '://unpackd@'), {
    REDIS_PASSWORD_FILE: password,
    REDIS_SENTINEL_USERNAME: 'unpackd',
    REDIS_SENTINEL_PASSWORD_FILE: password,
    UNPACK_BOARD_PORT: '0',
    UNPACK_REDIS_REPLICAS: '1',
  });
  await useAll(t, settings);
  await noneRefused([...admins, ...sentinels]);
});

test('in a cluster they need three commands more', async (t) => {
  const deployment = opened.use(await startCluster());
  const [rule = []] = documentedRules();
  const braced = rule.map((part) => part.replace('bull:*', '{bull}:*'));
  const admins = deployment.servers.map(({ port }) => new Redis({ port }));
  t.after(() => {
    for (const redis of admins) redis.disconnect();
  });
  const more = documentedClusterCommands();
  assert.equal(more.length, 3);
  for (const admin of admins) await admin.call('ACL', 'SETUSER', ...braced, ...more);
  const settings = testSettings(deployment.url.replace('://', '://unpackd@'), {
    REDIS_PASSWORD_FILE: password,
    UNPACK_REDIS_PREFIX: '{bull}',
    UNPACK_BOARD_PORT: '0',
    UNPACK_REDIS_REPLICAS: '1',
  });
  await useAll(t, settings);
  await noneRefused(admins);
});

/** What workers, producers, board and doctor do with a queue. */
async function useAll(t: TestContext, settings: Config): Promise<void> {
  const queue = fixture.producer(settings);
  const cancelled = await queue.add(payload('cancelled'));
  assert.equal(await queue.cancel(cancelled.id), true);
  const presence = presenceOf('a'.repeat(32), async () => [listing(1)]);
  const worker = await fixture.worker(settings, async () => [image('applied')], { presence });
  const job = await queue.add(payload('one'), { priority: 2 });
  await queue.wait(job);
  await assert.rejects(queue.wait(cancelled), /cancelled/);
  await queue.retry([cancelled.id]);
  await queue.wait(cancelled);
  await queue.counts();
  await eventually('images are listed', async () => (await queue.overview()).workers[0]?.images === 1);
  const board = await startBoard(settings, createLog(settings, { write: () => {} }));
  t.after(() => board.close());
  await eventually('the board is ready', async () => (await fetch(`${board.url}/readyz`)).status === 200);
  for (const path of [
    '/',
    `/jobs/${job.id}`,
    '/images',
    '/workers',
    '/queue',
    '/bull',
    '/bull/api/queues',
    '/metrics',
    '/readyz',
  ]) {
    const answer = await fetch(`${board.url}${path}`);
    assert.doesNotMatch(await answer.text(), /does not permit/, path);
    assert.equal(answer.status, 200, path);
  }
  const checks = [...(await checkRedis(settings)), ...(await checkQueue(settings))];
  assert.deepEqual(
    checks.filter(({ status }) => status === 'fail'),
    [],
  );
  await worker.close();
}

async function noneRefused(admins: readonly Redis[]): Promise<void> {
  for (const redis of admins) {
    const refused = JSON.stringify(await redis.call('ACL', 'LOG'));
    // doctor asks for what only administrators may read, and ioredis from Redis 7.2 on for its name; both go on without it
    const commands = [...refused.matchAll(/"object"[:,]"([^"]*)"/g)].map(([, name]) => name);
    assert.deepEqual(
      commands.filter((name) => !/^(config\|get|client\|setinfo|sentinel\|)/.test(name ?? '')),
      [],
      refused,
    );
  }
}
