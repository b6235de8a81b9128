import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Redis } from 'ioredis';
import { startBoard } from '../../src/board/board.ts';
import { checkQueue } from '../../src/doctor/queue.ts';
import { checkRedis } from '../../src/doctor/redis.ts';
import { createLog } from '../../src/queue/log.ts';
import { type SentinelDeployment, startSentinels } from '../support/redis-deployments.ts';
import { scratch } from '../support/scratch.ts';
import { eventually, payload, queueFixture, testSettings } from './queue-fixture.ts';
import { image, listing, presenceOf } from './scripted-unpacker.ts';

const fixture = queueFixture();
const folder = scratch();
let deployment: SentinelDeployment;
before(async () => {
  deployment = await startSentinels({ replicas: 1 });
});
after(async () => {
  await deployment[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

/** The rules in the documentation: for servers, and for sentinels. */
function documentedRules(): string[][] {
  const text = readFileSync(new URL('../../docs/operations.md', import.meta.url), 'utf8');
  return [...text.matchAll(/^ {4}ACL SETUSER (unpackd .*)$/gm)].map(([, rule = '']) =>
    rule.replace('>PASSWORD', '>s3cr3t-acl').split(' '),
  );
}

test('the documented users have the rights that workers, producers, board and doctor need, and no command is refused', async (t) => {
  const [rule = [], ofSentinels = []] = documentedRules();
  const admins = deployment.servers.map(({ port }) => new Redis({ port }));
  const sentinels = deployment.sentinels.map(({ port }) => new Redis({ port, enableReadyCheck: false }));
  t.after(() => {
    for (const redis of [...admins, ...sentinels]) redis.disconnect();
  });
  for (const admin of admins) await admin.call('ACL', 'SETUSER', ...rule);
  for (const sentinel of sentinels) await sentinel.call('ACL', 'SETUSER', ...ofSentinels);
  const password = join(folder.path, 'password');
  writeFileSync(password, 's3cr3t-acl\n');
  const settings = testSettings(deployment.url.replace('://', '://unpackd@'), {
    REDIS_PASSWORD_FILE: password,
    REDIS_SENTINEL_USERNAME: 'unpackd',
    REDIS_SENTINEL_PASSWORD_FILE: password,
    UNPACK_BOARD_PORT: '0',
    UNPACK_REDIS_REPLICAS: '1',
  });
  const queue = fixture.producer(settings);
  const cancelled = await queue.add(payload('cancelled'));
  assert.equal(await queue.cancel(cancelled.id), true);
  const presence = presenceOf('a'.repeat(32), async () => [listing(1)]);
  await fixture.worker(settings, async () => [image('applied')], { presence });
  const job = await queue.add(payload('one'), { priority: 2 });
  await queue.wait(job);
  await assert.rejects(queue.wait(cancelled), /cancelled/);
  await queue.counts();
  await eventually('images are listed', async () => (await queue.overview()).workers[0]?.images === 1);
  const board = await startBoard(settings, createLog(settings, { write: () => {} }));
  t.after(() => board.close());
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
  }
  const checks = [...(await checkRedis(settings)), ...(await checkQueue(settings))];
  assert.deepEqual(
    checks.filter(({ status }) => status === 'fail'),
    [],
  );
  for (const redis of [...admins, ...sentinels]) {
    const refused = JSON.stringify(await redis.call('ACL', 'LOG'));
    // doctor asks for what only administrators may read, and ioredis from Redis 7.2 on for its name; both go on without it
    const commands = [...refused.matchAll(/"object"[:,]"([^"]*)"/g)].map(([, name]) => name);
    assert.deepEqual(
      commands.filter((name) => !/^(config\|get|client\|setinfo|sentinel\|)/.test(name ?? '')),
      [],
      refused,
    );
  }
});
