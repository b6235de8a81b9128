import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { UnpackError } from '../../src/errors.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { image } from './scripted-unpacker.ts';

const fixture = queueFixture();

for (const [title, options] of [
  ['sets none', {}],
  ['wants to keep all', { removeOnComplete: false, removeOnFail: false }],
  ['wants to keep others', { removeOnComplete: { count: 1 }, removeOnFail: 1000 }],
] as const) {
  test(`UNPACK_KEEP_COMPLETED and UNPACK_KEEP_FAILED bound the finished jobs of a producer that ${title}`, async () => {
    const settings = fixture.settings({ UNPACK_KEEP_COMPLETED: '5', UNPACK_KEEP_FAILED: '3' });
    const queue = fixture.bull(settings);
    let ended = 0;
    await fixture.worker(settings, async ({ bucket }) => {
      ended++;
      if (bucket === 'bad') throw new UnpackError('IMAGE_NOT_FOUND', 'there is nothing');
      return [image('applied')];
    });
    const jobs = Array.from({ length: 20 }, (_, i) => ({
      name: settings.UNPACK_JOB,
      data: payload(i % 2 === 0 ? 'bad' : 'good'),
      opts: { attempts: 1, ...options },
    }));
    await queue.addBulk(jobs);
    await eventually('all have ended', async () => {
      const { waiting, active } = await queue.getJobCounts('waiting', 'active');
      return ended === jobs.length && waiting === 0 && active === 0;
    });
    const { completed, failed } = await queue.getJobCounts('completed', 'failed');
    assert.deepEqual({ completed, failed }, { completed: 5, failed: 3 });
    // with a job go its log and its other keys
    const client = new Redis(settings.REDIS_URL);
    fixture.onEnd(() => client.disconnect());
    const keys = await client.keys(queue.toKey('*'));
    const ofJobs = keys.flatMap((key) => /:(\d+)(?::|$)/.exec(key.slice(queue.toKey('').length - 1))?.[1] ?? []);
    assert.equal(new Set(ofJobs).size, 5 + 3, keys.join('\n'));
  });
}
