import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Redis } from 'ioredis';
import { type LocalRedis, startRedis } from '../../dev/redis-server.ts';
import { startS3Server } from '../../dev/s3/server.ts';
import { eventually } from '../support/eventually.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';
import { finished, runCli, startCli } from './run-cli.ts';

const workerNeedsRoot = process.getuid?.() === 0 ? false : 'a worker that keeps owners needs root';

describe('jobs', () => {
  let redis: LocalRedis;
  before(async () => {
    redis = await startRedis();
  });
  after(() => redis.stop());
  const run = (...args: string[]) => runCli(args, { env: { REDIS_URL: redis.url } });

  test('enqueue prints the ID, and status knows the job', async () => {
    const added = await run('enqueue', 's3://bucket/app:1');
    assert.equal(added.status, 0, added.stderr);
    const id = /^job ([0-9a-f-]{36})\n$/.exec(added.stdout)?.[1] ?? '';
    const { stdout } = await run('status', id, '--json');
    const status = JSON.parse(stdout);
    assert.equal(status.state, 'waiting');
    assert.equal(status.image, 'bucket/app:1');
  });

  test('status --timeline of a job that is not completed says so', async () => {
    const { id } = JSON.parse((await run('enqueue', 's3://bucket/waits:1', '--json')).stdout);
    const { status, stderr } = await run('status', id, '--timeline', '/nowhere/timeline.svg');
    assert.match(
      stderr,
      /^unpackd: \[USAGE\] job [0-9a-f-]{36} is waiting, and only a completed job has a timeline\n$/,
    );
    assert.equal(status, 2);
  });

  test('the same work gives one job', async () => {
    const first = JSON.parse((await run('enqueue', 's3://bucket/same:1', '--json')).stdout);
    const second = JSON.parse((await run('enqueue', 's3://bucket/same:1', '--json')).stdout);
    assert.deepEqual(second, { id: first.id, deduplicated: true });
  });

  test('with --no-deduplicate the same work gives two jobs', async () => {
    const first = JSON.parse((await run('enqueue', 's3://bucket/two:1', '--json')).stdout);
    const second = JSON.parse((await run('enqueue', 's3://bucket/two:1', '--json', '--no-deduplicate')).stdout);
    assert.notEqual(second.id, first.id);
  });

  test('a payload on stdin is added unchanged', async () => {
    const payload = { version: 1, image: 'registry.example/a:1', source: { bucket: 'b1', layout: 'oci' }, tag: '1' };
    const env = { REDIS_URL: redis.url };
    const added = await runCli(['enqueue', '--payload', '-', '--json'], { env, stdin: JSON.stringify(payload) });
    const { id } = JSON.parse(added.stdout);
    assert.equal(JSON.parse((await run('status', id, '--json')).stdout).image, 'registry.example/a:1');
  });

  test('cancel ends a waiting job', async () => {
    const { id } = JSON.parse((await run('enqueue', 's3://bucket/cancel:1', '--json')).stdout);
    const cancelled = await run('cancel', id, '--json');
    assert.deepEqual(JSON.parse(cancelled.stdout), { id, cancelled: true });
    assert.equal(JSON.parse((await run('status', id, '--json')).stdout).cancelRequested, true);
  });

  for (const command of ['status', 'cancel']) {
    test(`${command} of a missing job is JOB_NOT_FOUND`, async () => {
      const { status, stderr } = await run(command, 'nothing');
      assert.match(stderr, /^unpackd: \[JOB_NOT_FOUND\] job nothing does not exist[^\n]*\n$/);
      assert.equal(status, 1);
    });
  }

  test('an interrupt ends the watching but not the job, says so, and exits with 130', async () => {
    const child = startCli(['enqueue', 's3://bucket/watched:1', '--watch'], { env: { REDIS_URL: redis.url } });
    const end = finished(child);
    const client = new Redis(redis.url);
    // it reads the events of the queue once it waits for the job
    await eventually('it watches', async () => String(await client.client('LIST')).includes('cmd=xread'));
    client.disconnect();
    child.kill('SIGINT');
    const { status, stderr } = await end;
    assert.match(stderr, /job [0-9a-f-]{36} continues; to cancel it, run unpackd cancel/);
    assert.equal(status, 130);
  });

  test('doctor checks Redis and the store, and exits with 1 if a check fails', async () => {
    const { status, stdout } = await runCli(
      ['doctor', '--json', '--s3-endpoint', 'http://127.0.0.1:1', '--bucket', 'b'],
      {
        env: { REDIS_URL: redis.url, AWS_ACCESS_KEY_ID: 'x', AWS_SECRET_ACCESS_KEY: 'y' },
      },
    );
    const { ok, checks } = JSON.parse(stdout);
    const statusOf = (name: string) => checks.find((check: { name: string }) => check.name === name)?.status;
    assert.equal(statusOf('Redis'), 'ok');
    assert.equal(statusOf('Redis memory'), 'ok');
    assert.equal(statusOf('Redis persistence'), 'warn');
    assert.equal(statusOf('S3 bucket b'), 'fail');
    assert.equal(ok, false);
    assert.equal(status, 1);
  });

  test('every warning and failure of doctor says what to do', async () => {
    const { stdout } = await run('doctor', '--json', '--root', '/proc/nowhere', '--redis-url', 'redis://127.0.0.1:1');
    for (const { status, advice } of JSON.parse(stdout).checks) assert.equal(advice !== undefined, status !== 'ok');
  });

  test('push, worker and enqueue --watch work together', { skip: workerNeedsRoot }, async () => {
    using folder = scratch();
    const image = imageOf([layerOf(tar(file('hello', 'world')))]);
    await writeLayout(join(folder.path, 'layout'), {
      app: image,
      bare: imageOf([]),
      odd: imageOf([layerOf(tar(file('odd')))], undefined, { schemaVersion: undefined }),
    });
    const s3 = await startS3Server({ buckets: ['images'] });
    const env = {
      REDIS_URL: redis.url,
      UNPACK_QUEUE: 'together',
      UNPACK_ROOT: join(folder.path, 'store'),
      S3_ENDPOINT: s3.endpoint,
      AWS_ACCESS_KEY_ID: s3.accessKeyId,
      AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
    };
    const worker = startCli(['worker', '--jobs', '1'], { env });
    const workerEnd = finished(worker);
    try {
      const pushed = await runCli(['push', `${folder.path}/layout:app`, 's3://images/team/app:1.0', '--json'], { env });
      assert.equal(JSON.parse(pushed.stdout).digest, image.manifestDigest, pushed.stderr);

      const done = await runCli(['enqueue', 's3://images/team/app:1.0', '--watch', '--json'], { env });
      assert.equal(done.status, 0, done.stderr);
      assert.equal(JSON.parse(done.stdout).result.images[0].chainId, image.chainId);

      const drawing = join(folder.path, 'timeline.svg');
      const drawn = await run('status', JSON.parse(done.stdout).id, '--queue', 'together', '--timeline', drawing);
      assert.equal(drawn.status, 0, drawn.stderr);
      assert.match(readFileSync(drawing, 'utf8'), /1 of 1 layers applied/);

      for (const [tag, state] of [
        ['bare', /no layers: nothing to unpack, no chain ID/],
        ['odd', /warning: document sha256:\S+ of s3:\/\/images\/team\/app: schemaVersion is missing/],
      ] as const) {
        const { status, stderr } = await runCli(
          ['push', `${folder.path}/layout:${tag}`, `s3://images/team/app:${tag}`],
          {
            env,
          },
        );
        assert.equal(status, 0, stderr);
        const watched = await runCli(['enqueue', `s3://images/team/app:${tag}`, '--watch', '--json'], { env });
        assert.equal(watched.status, 0, watched.stderr);
        const { id, result } = JSON.parse(watched.stdout);
        assert.equal('chainId' in result.images[0], tag === 'odd');
        const { stdout } = await run('status', id, '--queue', 'together');
        assert.match(stdout, state);
      }

      const missing = await runCli(['enqueue', 's3://images/team/app:2.0', '--watch', '--attempts', '1', '--json'], {
        env,
      });
      assert.equal(missing.status, 1);
      const { id, error, failure } = JSON.parse(missing.stdout);
      assert.equal(error.code, 'IMAGE_NOT_FOUND');
      const { stdout } = await run('status', id, '--queue', 'together');
      assert.match(stdout, /\nto do {2}Check in the bucket that the mirror has finished/);
      assert.equal(failure.attempts, 1);
      assert.match(missing.stderr, /^unpackd: \[IMAGE_NOT_FOUND\] [^\n]+\n$/);
    } finally {
      worker.kill('SIGTERM');
      const { status, stderr } = await workerEnd;
      await s3.close();
      assert.equal(stderr, '');
      assert.equal(status, 0);
    }
  });
});
