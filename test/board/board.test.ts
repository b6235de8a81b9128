import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Redis } from 'ioredis';
import { startRedis } from '../../dev/redis-server.ts';
import { type Board, startBoard } from '../../src/board/board.ts';
import { startHealthServer } from '../../src/board/health.ts';
import { ListenError } from '../../src/board/listen.ts';
import { explain } from '../../src/cli/explain-error.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import { UnpackError } from '../../src/errors.ts';
import { createLog } from '../../src/queue/log.ts';
import { eventually, payload, queueFixture } from '../queue/queue-fixture.ts';
import { image } from '../queue/scripted-unpacker.ts';

const fixture = queueFixture();
const silent = createLog({ UNPACK_LOG_LEVEL: 'silent', UNPACK_LOG_FORMAT: 'json' });

async function board(settings: Config): Promise<Board> {
  const started = await startBoard(settings, silent);
  fixture.onEnd(() => started.close());
  await eventually('Redis is connected', async () => (await fetch(`${started.url}/readyz`)).status === 200);
  return started;
}

async function get(url: string, init: RequestInit = {}): Promise<{ status: number; text: string }> {
  const response = await fetch(url, init);
  return { status: response.status, text: await response.text() };
}

/** Presses the button of a form, as a browser does. @param page with the form */
async function press(page: string, action: string, more: Record<string, string> = {}): Promise<Response> {
  const shown = await fetch(page);
  const text = await shown.text();
  assert.ok(text.includes(`action="${action}"`), `${page} has no form for ${action}`);
  const value = /name="unpackd-form" value="([^"]+)"/.exec(text)?.[1] ?? '';
  return fetch(new URL(action, page), {
    method: 'POST',
    headers: { cookie: shown.headers.get('set-cookie')?.split(';')[0] ?? '', origin: new URL(page).origin },
    body: new URLSearchParams({ 'unpackd-form': value, ...more }),
    redirect: 'manual',
  });
}

const open = { UNPACK_BOARD_PORT: '0' };

test('a failed job shows its code and sentence, and Retry gives it all its attempts again', async () => {
  const settings = fixture.settings(open);
  const queue = fixture.producer(settings);
  let mended = false;
  await fixture.worker(settings, () => {
    if (mended) return [image('applied')];
    throw new UnpackError('BLOB_NOT_FOUND', 'layer 2 of 3: no such blob', { cause: new Error('NoSuchKey') });
  });
  const job = await queue.add(payload('one'), { attempts: 2 });
  await assert.rejects(queue.wait(job));
  const { url } = await board(settings);
  const shown = JSON.parse((await get(`${url}/bull/api/queues/${settings.UNPACK_QUEUE}/${job.id}`)).text);
  assert.equal(shown.job.name, 'registry.example/one:1');
  assert.equal(shown.job.failedReason, '[BLOB_NOT_FOUND] layer 2 of 3: no such blob');
  const [newest] = shown.job.stacktrace;
  assert.match(
    newest,
    /^attempt 2 of 2, .*\n\[BLOB_NOT_FOUND\] layer 2 of 3: no such blob\ncaused by Error: NoSuchKey\n$/,
  );
  assert.equal(shown.job.progress.failure.code, 'BLOB_NOT_FOUND');

  mended = true;
  const retried = await press(`${url}/jobs/${job.id}`, `/jobs/${job.id}/retry`);
  assert.deepEqual([retried.status, retried.headers.get('location')], [303, `/jobs/${job.id}?done=retry`]);
  assert.equal((await queue.wait(job)).attempts, 1);
});

test('a job whose image existed is shown as completed, with a line in its log', async () => {
  const settings = fixture.settings(open);
  const queue = fixture.producer(settings);
  const there = [image('existed', 'existed')];
  await fixture.worker(settings, () => [...there], { look: async () => there });
  const job = await queue.add(payload('one'));
  await queue.wait(job);
  const { url } = await board(settings);
  const path = `${url}/bull/api/queues/${settings.UNPACK_QUEUE}/${job.id}`;
  const { progress } = JSON.parse((await get(path)).text).job;
  assert.deepEqual([progress.progress, progress.phase, progress.layersDone], [100, 'completed', 2]);
  const logs: string[] = JSON.parse((await get(`${path}/logs`)).text);
  assert.equal(logs.length, 1);
  assert.match(logs[0] ?? '', /^\d{4}-\S+Z completed in \d+ ms, attempt 1 on worker-1: all 2 layers of .* existed$/);
});

test('the page, the queue and the metrics are served', async () => {
  const settings = fixture.settings(open);
  await fixture.producer(settings).add(payload('one'));
  const { url } = await board(settings);
  assert.match((await get(url)).text, /<title>1 problem · unpackd<\/title>/, 'no worker is connected');
  for (const [, path = ''] of (await get(url)).text.matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)) {
    assert.equal((await get(`${url}${path}`)).status, 200, path);
  }
  const raw = (await get(`${url}/bull`)).text;
  assert.match(raw, /<title>unpackd<\/title>/);
  assert.doesNotMatch(raw, /(?:href|src)="(?:https?:)?\/\//);
  const script = /src="([^"]+\.js)"/.exec(raw)?.[1] ?? '';
  assert.equal((await get(new URL(script, `${url}/bull/`).href)).status, 200);
  const queues = JSON.parse((await get(`${url}/bull/api/queues`)).text);
  assert.equal(queues.queues[0].counts.waiting, 1);
  const metrics = await get(`${url}/metrics`);
  assert.match(metrics.text, /^unpackd_queue_jobs\{state="waiting"(,[^}]*)?\} 1$/m);
});

test('a form is accepted only with the cookie of the board, even without an origin', async () => {
  const settings = fixture.settings(open);
  const queue = fixture.producer(settings);
  const { id } = await queue.add(payload('one'));
  const { url } = await board(settings);
  const page = await fetch(`${url}/jobs/${id}`);
  const cookie = page.headers.get('set-cookie')?.split(';')[0] ?? '';
  assert.match(page.headers.get('set-cookie') ?? '', /; HttpOnly; SameSite=Strict$/);
  const value = /name="unpackd-form" value="([^"]+)"/.exec(await page.text())?.[1] ?? '';
  const post = (headers: Record<string, string>, form: Record<string, string>) =>
    fetch(`${url}/jobs/${id}/cancel`, { method: 'POST', headers, body: new URLSearchParams(form), redirect: 'manual' });
  const field = { 'unpackd-form': value };
  for (const [headers, form] of [
    [{}, {}],
    [{}, field],
    [{ cookie }, {}],
    [{ cookie }, { 'unpackd-form': `${value.slice(1)}x` }],
    [{ cookie, origin: 'http://attacker.example' }, field],
  ] as const) {
    assert.equal((await post(headers, form)).status, 403, JSON.stringify([headers, form]));
  }
  assert.equal((await queue.status(id)).cancelRequested, false);
  const answer = await post({ cookie, origin: url }, field);
  assert.deepEqual([answer.status, answer.headers.get('location')], [303, `/jobs/${id}?done=cancel`]);
  assert.equal((await queue.status(id)).cancelRequested, true);
});

test('odd requests get a sentence and the right status, and nothing hangs', async () => {
  const settings = fixture.settings(open);
  const queue = fixture.producer(settings);
  const { id } = await queue.add(payload('one'));
  const { url } = await board(settings);
  const long = 'x'.repeat(3000);
  const form = { 'content-type': 'application/x-www-form-urlencoded' };
  const body = Buffer.alloc(10_000_000);
  const requests: readonly (readonly [status: number, path: string, init?: RequestInit])[] = [
    // keys of BullMQ and of unpackd beside those of the jobs
    ...['wait', 'meta', 'events', 'failed', 'de:x', '*', '__proto__', '%00', 'a%2Fb', '..%2f..%2fetc'].map(
      (odd) => [404, `/jobs/${odd}`] as const,
    ),
    [404, `/jobs/${id}/raw/__proto__`],
    [400, '/jobs/%E0%A4%A'],
    [414, `/jobs/${long}`],
    [404, '/assets/..%2f..%2fpackage.json'],
    [404, '/nothing'],
    [200, `/jobs?state=nothing&state=failed&from=-1e99&after=%00`],
    [200, `/images?order=__proto__&from=NaN&store=%00&q=${'%F0%9F%92%A9'.repeat(100)}`],
    [200, '/queue?range=constructor'],
    [200, '/search?q=%00&in=nothing&from=1e308'],
    [200, '/', { method: 'HEAD' }],
    ...['OPTIONS', 'PUT', 'DELETE', 'PATCH'].map((method) => [405, '/jobs', { method }] as const),
    [405, '/jobs', { method: 'POST', headers: form, body: '' }],
    [413, `/jobs/${id}/cancel`, { method: 'POST', headers: form, body }],
    [415, '/pause', { method: 'POST', headers: { 'content-type': 'text/xml' }, body: '<a/>' }],
    [405, '/bull/api/queues/pause', { method: 'PUT', headers: form, body }],
  ];
  for (const [status, path, init] of requests) {
    const name = `${init?.method ?? 'GET'} ${path.slice(0, 80)}`;
    const answer = await fetch(`${url}${path}`, init);
    const text = await answer.text();
    assert.equal(answer.status, status, `${name}: ${text}`);
    if (status >= 400) assert.match(text, /^[A-Z][^\n]*\.\n$|<strong><bdi>[A-Z][^<]*\.<\/bdi>/, name);
  }
  assert.equal((await queue.status(id)).cancelRequested, false);
});

test('the raw view changes nothing', async () => {
  const settings = fixture.settings(open);
  const queue = fixture.producer(settings);
  const failing = await fixture.worker(settings, () => {
    throw new UnpackError('MANIFEST_INVALID', 'scripted');
  });
  const failed = await queue.add(payload('failed'));
  await assert.rejects(queue.wait(failed));
  await failing.close();
  const waiting = await queue.add(payload('waiting'));
  const bull = fixture.bull(settings);
  const delayed = await bull.add('unpack', payload('delayed'), { delay: 3_600_000 });
  const { url } = await board(settings);
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  const dump = async () => {
    const keys = (await redis.keys(`*${settings.UNPACK_QUEUE}*`))
      .filter((key) => !/:(workers?|unpackd-probe)/.test(key))
      .sort();
    return Promise.all(keys.map(async (key) => [key, (await redis.dump(key))?.toString()]));
  };
  const before = await dump();
  const api = `/bull/api/queues/${settings.UNPACK_QUEUE}`;
  const actions: readonly (readonly [method: string, path: string])[] = [
    ['PUT', `${api}/retry/failed`],
    ['PUT', `${api}/promote`],
    ['PUT', `${api}/pause`],
    ['PUT', `${api}/empty`],
    ['PUT', `${api}/obliterate`],
    ['PUT', `${api}/clean/failed`],
    ['POST', `${api}/add`],
    ['PUT', `${api}/concurrency`],
    ['PUT', '/bull/api/queues/pause'],
    ...['retry/failed', 'retry/completed', 'clean', 'promote', 'update-data'].flatMap((action) =>
      [failed.id, waiting.id, delayed.id ?? ''].map((id) => ['PUT', `${api}/${id}/${action}`] as const),
    ),
    ['DELETE', `${api}/${failed.id}`],
    ['PATCH', `${api}/${failed.id}/update-data`],
  ];
  for (const [method, path] of actions) {
    const answer = await fetch(`${url}${path}`, {
      method,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ jobData: {}, name: 'x', data: {}, options: {}, concurrency: 1 }),
    });
    assert.equal(answer.status, 405, `${method} ${path}`);
    assert.match(await answer.text(), /^The raw view changes nothing: .*\n$/);
  }
  assert.deepEqual(await dump(), before);
  const { queues } = JSON.parse((await get(`${url}/bull/api/queues`)).text);
  assert.equal(queues[0].readOnlyMode, true, 'it shows no buttons');
});

test('buttons pause and resume the queue, and retry all jobs of the last hour with one code', async () => {
  const settings = fixture.settings(open);
  const queue = fixture.producer(settings);
  const failing = await fixture.worker(settings, ({ bucket }) => {
    throw new UnpackError(bucket === 'other' ? 'LAYER_CORRUPT' : 'MANIFEST_INVALID', 'scripted');
  });
  const jobs = await queue.addBulk(['one', 'two', 'other'].map((bucket) => ({ payload: payload(bucket) })));
  await Promise.allSettled(jobs.map((job) => queue.wait(job)));
  await failing.close();
  const { url } = await board(settings);
  const bull = fixture.bull(settings);
  assert.equal((await press(`${url}/`, '/pause')).headers.get('location'), '/?done=pause');
  assert.equal(await bull.isPaused(), true);
  assert.match((await get(`${url}/?done=pause`)).text, /The queue is paused, so workers take no jobs/);
  assert.equal((await press(`${url}/`, '/resume')).headers.get('location'), '/?done=resume');
  assert.equal(await bull.isPaused(), false);

  const failed = `${url}/jobs?state=failed`;
  const none = await press(failed, '/retry', { code: 'NO_SUCH_CODE' });
  assert.equal(none.status, 409);
  const retried = await press(failed, '/retry', { code: 'MANIFEST_INVALID' });
  assert.match(await retried.text(), /2 jobs that failed with MANIFEST_INVALID wait again, with all attempts/);
  const { waiting, failed: left } = await queue.counts();
  assert.deepEqual([waiting, left], [2, 1]);
  for (const path of ['/pause', '/resume', '/retry']) {
    assert.equal((await fetch(`${url}${path}`, { method: 'POST', body: new URLSearchParams({}) })).status, 403, path);
  }
});

test('with a user, everything except the probes needs the password', async () => {
  const settings = fixture.settings({ ...open, UNPACK_BOARD_USER: 'ann', UNPACK_BOARD_PASSWORD: 'secret' });
  const { url } = await board(settings);
  for (const path of [
    '/',
    '/metrics',
    '/jobs',
    '/jobs/1',
    '/assets/',
    '/bull/api/queues',
    '/bull/static/',
    '/healthz/../',
    '/healthz?x',
    '/nothing',
  ]) {
    assert.equal((await get(`${url}${path}`)).status, 401, path);
  }
  assert.equal((await get(`${url}/healthz`)).status, 200);
  assert.equal((await get(`${url}/readyz`)).status, 200);
  const authorization = `Basic ${btoa('ann:secret')}`;
  assert.equal((await get(`${url}/bull/api/queues`, { headers: { authorization } })).status, 200);
});

test('if the board or the probes cannot listen, one sentence names the setting to change', async () => {
  const settings = fixture.settings(open);
  const { port } = new URL((await board(settings)).url);
  const taken = { ...settings, UNPACK_BOARD_PORT: Number(port), UNPACK_HEALTH_PORT: Number(port) };
  const says = (pattern: RegExp) => (error: unknown) => error instanceof ListenError && pattern.test(error.message);
  await assert.rejects(
    startBoard(taken, silent),
    says(/^127\.0\.0\.1:\d+ is in use by another process .*UNPACK_BOARD_PORT/),
  );
  await assert.rejects(
    startHealthServer(taken, async () => undefined),
    says(/is in use by another process .*UNPACK_HEALTH_PORT/),
  );
  const elsewhere = { ...settings, UNPACK_HEALTH_HOST: '203.0.113.7', UNPACK_HEALTH_PORT: 0 };
  await assert.rejects(
    startHealthServer(elsewhere, async () => undefined),
    says(/is not an address of this machine: set UNPACK_HEALTH_HOST/),
  );
  const { code, exitStatus } = explain(new ListenError('x'));
  assert.deepEqual([code, exitStatus], ['ADDRESS_UNAVAILABLE', 1]);
});

test('without Redis the board runs, is not ready, and says why', async () => {
  const redis = await startRedis();
  await redis.stop();
  const started = await startBoard(loadConfig({ ...open, REDIS_URL: redis.url }, {}), silent);
  fixture.onEnd(() => started.close());
  const { url } = started;
  assert.equal((await get(`${url}/healthz`)).status, 200);
  const ready = await get(`${url}/readyz`);
  assert.equal(ready.status, 503);
  assert.match(ready.text, /^Redis (does not answer|is not available: connect ECONNREFUSED [^\n]+)\n$/);
  const page = await get(url);
  assert.equal(page.status, 503);
  assert.match(page.text, /^Redis at redis:\/\/127\.0\.0\.1:\d+ is not available: connect ECONNREFUSED/);
});

test('if Redis hangs, the board is not ready but answers', async () => {
  const redis = await startRedis();
  const { url, close } = await startBoard(loadConfig({ ...open, REDIS_URL: redis.url }, {}), silent);
  await eventually('Redis is connected', async () => (await fetch(`${url}/readyz`)).status === 200);
  process.kill(redis.pid, 'SIGSTOP');
  assert.equal((await get(`${url}/readyz`)).status, 503);
  process.kill(redis.pid, 'SIGCONT');
  await close();
  await redis.stop();
});

test('a worker serves probes only if a port is set', async () => {
  assert.equal(await startHealthServer(loadConfig({}, {}), async () => undefined), undefined);
  let reason: string | undefined = 'the disk is gone';
  const health = await startHealthServer(loadConfig({ UNPACK_HEALTH_PORT: '0' }, {}), async () => reason);
  assert.ok(health !== undefined);
  assert.equal((await get(`${health.url}/healthz`)).status, 200);
  assert.deepEqual(await get(`${health.url}/readyz`), { status: 503, text: 'the disk is gone\n' });
  reason = undefined;
  assert.equal((await get(`${health.url}/readyz`)).status, 200);
  await health.close();
});
