import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { hexOf } from '../../src/oci/digest.ts';
import { imageOf } from '../support/layout.ts';
import { referenceTrees } from '../support/store-trees.ts';
import { chainOf, type Stage, someImage, someLayer, stage, until } from './stage.ts';

/** Waits until a worker is writing a layer whose blob the proxy stalls. */
async function inTheMiddle(s: Stage): Promise<void> {
  await until(() =>
    readdirSync(join(s.root, 'snapshots'))
      .filter((name) => /^\d+$/.test(name)) // the others are being made
      .some((id) => readdirSync(join(s.root, 'snapshots', id, 'fs')).length > 0),
  );
}

/** Most of each layer arrives at once, enough for its first files to be written; then the download stalls. */
const holdLayersBack = (s: Stage, image: ReturnType<typeof someImage>): void =>
  s.proxy.rules([
    {
      fault: { kind: 'stall', afterBytes: 700_000 },
      when: ({ key }) => image.layers.some((layer) => key.endsWith(hexOf(layer.blob.digest))),
    },
  ]);

const big = (seed: string): ReturnType<typeof someImage> => someImage(seed, 3, 300, 3000);

describe('a worker with UNPACK_DURABLE=false', () => {
  it('says that its layers are not on disk yet, and syncs them before it ends', async () => {
    await using s = await stage();
    const image = big('later');
    await s.push('later', { app: image });
    const worker = await s.worker();
    const job = await s.queue.add(s.payload('later'));
    const result = await s.queue.wait(job, { timeout: 120_000 });
    assert.equal(result.images[0]?.durable, false);
    worker.kill('SIGTERM');
    assert.equal(await worker.ended, 0);
    const durable = await s.worker({ UNPACK_DURABLE: 'true' });
    const again = await s.queue.wait(await s.queue.add(s.payload('later')), { timeout: 120_000 });
    assert.deepEqual(
      again.images.map(({ durable, layers }) => [durable, layers.map(({ state }) => state)]),
      [[true, image.layers.map(() => 'existed')]],
    );
    durable.kill('SIGTERM');
    assert.equal(await durable.ended, 0);
  });
});

describe('a worker that dies in the middle of a layer', () => {
  it('by SIGKILL: another worker finishes the job, the tree is right, and no leftovers remain', async () => {
    await using s = await stage();
    const image = big('kill');
    await s.push('kill', { app: image });
    holdLayersBack(s, image);
    // this worker would wait for the stalled bytes forever
    const first = await s.worker({ UNPACK_S3_IDLE_TIMEOUT: '10m', UNPACK_LOCK: '3s', UNPACK_WORKER_NAME: 'first' });
    const job = await s.queue.add(s.payload('kill'));
    await inTheMiddle(s);
    first.kill('SIGKILL');
    assert.equal(await first.ended, 'SIGKILL');
    s.proxy.rules([]);
    await s.worker({ UNPACK_LOCK: '3s', UNPACK_WORKER_NAME: 'second' });
    const result = await s.queue.wait(job, { timeout: 120_000 });
    assert.equal(result.worker.name, 'second');
    assert.equal(result.images[0]?.chainId, image.chainId);
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
    await s.assertClean(chainOf(image));
    assert.deepEqual(s.locks(), []);
  });

  it('by SIGTERM: it returns the job within its grace period and leaves nothing behind', async () => {
    await using s = await stage();
    const image = big('term');
    await s.push('term', { app: image });
    holdLayersBack(s, image);
    const first = await s.worker({ UNPACK_S3_IDLE_TIMEOUT: '10m', UNPACK_GRACE: '500ms', UNPACK_WORKER_NAME: 'first' });
    const job = await s.queue.add(s.payload('term'));
    await inTheMiddle(s);
    first.kill('SIGTERM');
    assert.equal(await first.ended, 0);
    assert.equal((await s.queue.status(job.id)).state, 'waiting');
    await s.assertClean([]);
    s.proxy.rules([]);
    await s.worker({ UNPACK_WORKER_NAME: 'second' });
    const result = await s.queue.wait(job, { timeout: 120_000 });
    assert.equal(result.attempts, 1, 'a returned job has used no attempt');
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
  });

  it('by SIGTERM with enough time: it finishes the job first', async () => {
    await using s = await stage();
    const image = big('grace');
    await s.push('grace', { app: image });
    s.proxy.rules([
      { fault: { kind: 'trickle', bytes: 60_000, everyMs: 50 }, when: ({ key }) => key.includes('blobs') },
    ]);
    const worker = await s.worker({ UNPACK_GRACE: '30s' });
    const job = await s.queue.add(s.payload('grace'));
    await inTheMiddle(s);
    worker.kill('SIGTERM');
    assert.equal(await worker.ended, 0);
    assert.equal((await s.queue.status(job.id)).state, 'completed');
  });
});

describe('a job that is cancelled while it runs', () => {
  it('stops at once, by another process, and leaves nothing behind', async () => {
    await using s = await stage();
    const image = big('cancel');
    await s.push('cancel', { app: image });
    holdLayersBack(s, image);
    await s.worker({ UNPACK_S3_IDLE_TIMEOUT: '10m' });
    const job = await s.queue.add(s.payload('cancel'));
    await inTheMiddle(s);
    await s.queue.cancel(job.id);
    await assert.rejects(s.queue.wait(job, { timeout: 120_000 }), { code: 'CANCELLED' });
    await s.assertClean([]);
  });
});

describe('two workers on one store', () => {
  it('download and apply each layer once for twenty jobs whose images share layers', async () => {
    await using s = await stage();
    const base = [someLayer('base-0', 100), someLayer('base-1', 100)];
    const middle = ['a', 'b', 'c', 'd'].map((name) => someLayer(`middle-${name}`, 50));
    const images = Array.from({ length: 20 }, (_, i) =>
      imageOf([...base, ...middle.slice(i % 4, (i % 4) + 1), someLayer(`top-${i % 10}-of-${i}`, 10)]),
    );
    await Promise.all(images.map((image, i) => s.push(`many/${i}`, { app: image })));
    await Promise.all([s.worker({ UNPACK_JOBS: '6' }), s.worker({ UNPACK_JOBS: '6' })]);
    const jobs = await s.queue.addBulk(images.map((_, i) => ({ payload: s.payload(`many/${i}`) })));
    const results = await Promise.all(jobs.map((job) => s.queue.wait(job, { timeout: 120_000 })));

    const chains = new Set(images.flatMap(chainOf));
    await s.assertClean([...chains]);
    const applied = results.flatMap(({ images }) =>
      images.flatMap(({ layers }) => layers.filter(({ state }) => state === 'applied').map(({ chainId }) => chainId)),
    );
    assert.deepEqual([...applied].sort(), [...chains].sort(), 'each chain ID is applied by one job');
    const layers = new Set(images.flatMap((image) => image.layers.map((layer) => hexOf(layer.blob.digest))));
    const downloads = s.proxy.seen.filter(
      ({ method, key }) => method === 'GET' && layers.has(key.split('/').at(-1) ?? ''),
    );
    assert.equal(downloads.length, chains.size, 'one download a layer');
    const workers = new Set(results.map(({ worker }) => worker.name));
    assert.equal(workers.size, 2, 'both workers had work');
  });
});

describe('S3 that misbehaves', () => {
  it('by dropping connections at random bytes: the downloads resume and the job completes', async () => {
    await using s = await stage();
    const image = big('drop');
    await s.push('drop', { app: image });
    s.proxy.rules([{ fault: { kind: 'drop', afterBytes: () => 50_000 + Math.floor(Math.random() * 400_000) } }]);
    await s.worker({ UNPACK_S3_RESUMES: '50' });
    const result = await s.queue.wait(await s.queue.add(s.payload('drop')), { timeout: 120_000 });
    assert.equal(result.attempts, 1);
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
    const ranged = s.proxy.seen.filter(({ range }) => range !== undefined).length;
    assert.ok(ranged > 3, `${ranged} ranged requests`);
  });

  it('by answering 503 and 429 for a while: the job completes', async () => {
    await using s = await stage();
    const image = someImage('busy', 2);
    await s.push('busy', { app: image });
    s.proxy.rules([
      { fault: { kind: 'status', status: 503, code: 'SlowDown' }, times: 3 },
      { fault: { kind: 'status', status: 429, code: 'TooManyRequests' }, times: 3 },
    ]);
    await s.worker();
    const result = await s.queue.wait(await s.queue.add(s.payload('busy')), { timeout: 120_000 });
    assert.equal(result.images[0]?.chainId, image.chainId);
  });

  it('by answering 503 forever: SOURCE_UNAVAILABLE after all attempts of the job', async () => {
    await using s = await stage();
    await s.push('down', { app: someImage('down', 1) });
    s.proxy.rules([{ fault: { kind: 'status', status: 503, code: 'ServiceUnavailable' } }]);
    await s.worker({ UNPACK_S3_RESUMES: '1' });
    const job = await s.queue.add(s.payload('down'), { attempts: 2 });
    await assert.rejects(s.queue.wait(job, { timeout: 120_000 }), { code: 'SOURCE_UNAVAILABLE' });
    assert.equal((await s.queue.status(job.id)).attemptsMade, 2);
  });

  it('by stalling: the download resumes over a new connection', async () => {
    await using s = await stage();
    const image = big('silent');
    await s.push('silent', { app: image });
    s.proxy.rules([
      { fault: { kind: 'stall', afterBytes: 100_000 }, times: 2, when: ({ key }) => key.includes('blobs') },
    ]);
    await s.worker({ UNPACK_S3_IDLE_TIMEOUT: '2s' });
    const result = await s.queue.wait(await s.queue.add(s.payload('silent')), { timeout: 120_000 });
    assert.equal(result.attempts, 1);
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
  });

  it('by sending a kilobyte a second to two connections of each of twelve layers: no job fails', async () => {
    await using s = await stage();
    const images = Array.from({ length: 12 }, (_, i) => someImage(`drip-${i}`, 1, 100, 3000));
    await Promise.all(images.map((image, i) => s.push(`drip/${i}`, { app: image })));
    const layers = new Set(images.flatMap((image) => image.layers.map(({ blob }) => hexOf(blob.digest))));
    const dripped = new Map<string, number>();
    s.proxy.rules([
      {
        fault: { kind: 'trickle', bytes: 100, everyMs: 100 },
        when: ({ key }) => {
          const times = dripped.get(key) ?? 0;
          if (times === 2 || !layers.has(key.split('/').at(-1) ?? '')) return false;
          dripped.set(key, times + 1);
          return true;
        },
      },
    ]);
    const settings = { UNPACK_S3_MIN_SPEED: '16KiB', UNPACK_S3_MIN_SPEED_TIME: '1s', UNPACK_S3_RESUMES: '1' };
    await s.worker(settings);
    const jobs = await s.queue.addBulk(
      images.map((_, i) => ({ payload: s.payload(`drip/${i}`), options: { attempts: 1 } })),
    );
    const began = performance.now();
    const results = await Promise.all(jobs.map((job) => s.queue.wait(job, { timeout: 120_000 })));
    console.log(`twelve jobs over connections that drip: ${Math.round(performance.now() - began)} ms`);
    assert.deepEqual(new Set(results.map(({ attempts }) => attempts)), new Set([1]));
    assert.deepEqual(
      [...dripped.values()],
      Array.from({ length: 12 }, () => 2),
    );
    await s.assertClean(images.flatMap(chainOf));
  });

  it('by a wrong length: BLOB_SIZE_MISMATCH after one retry', async () => {
    await using s = await stage();
    const image = someImage('liar', 1);
    await s.push('liar', { app: image });
    const blob = hexOf(image.layers[0]?.blob.digest ?? image.configDigest);
    s.proxy.rules([{ fault: { kind: 'wrong-length', by: 7 }, when: ({ key }) => key.endsWith(blob) }]);
    await s.worker();
    const job = await s.queue.add(s.payload('liar'));
    await assert.rejects(s.queue.wait(job, { timeout: 120_000 }), { code: 'BLOB_SIZE_MISMATCH' });
    assert.equal((await s.queue.status(job.id)).attemptsMade, 2);
    await s.assertClean([]);
  });

  it('by a changed bit: BLOB_DIGEST_MISMATCH after one retry, or success if the second download is right', async () => {
    await using s = await stage();
    const image = someImage('flip', 1);
    await s.push('flip', { app: image });
    const blob = hexOf(image.layers[0]?.blob.digest ?? image.configDigest);
    s.proxy.rules([{ fault: { kind: 'corrupt', at: 500 }, times: 1, when: ({ key }) => key.endsWith(blob) }]);
    await s.worker();
    const job = await s.queue.add(s.payload('flip'));
    const result = await s.queue.wait(job, { timeout: 120_000 });
    assert.equal(result.attempts, 2);
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
  });
});

describe('a blob that is uploaded after the job was added', () => {
  it('lets a later attempt succeed, which reuses the layers below', async () => {
    await using s = await stage();
    const image = someImage('late', 2);
    const missing = image.layers[1];
    assert.ok(missing);
    await s.push('late', { app: image }, [missing.blob.digest]);
    await s.worker();
    const job = await s.queue.add(s.payload('late'), { attempts: 10 });
    await until(async () => ((await s.queue.status(job.id)).attemptsMade ?? 0) >= 1);
    await s.bucket.put(`late/blobs/sha256/${hexOf(missing.blob.digest)}`, missing.bytes);
    const result = await s.queue.wait(job, { timeout: 120_000 });
    assert.ok(result.attempts > 1);
    assert.deepEqual(
      result.images[0]?.layers.map(({ state }) => state),
      ['existed', 'applied'],
    );
  });
});

describe('Redis that restarts in the middle of a job', () => {
  it('loses nothing: the job completes once and has its result', async () => {
    await using s = await stage({ persistent: true });
    const image = big('redis');
    await s.push('redis', { app: image });
    s.proxy.rules([
      { fault: { kind: 'trickle', bytes: 60_000, everyMs: 100 }, when: ({ key }) => key.includes('blobs') },
    ]);
    const worker = await s.worker({ UNPACK_LOCK: '30s' });
    const job = await s.queue.add(s.payload('redis'));
    await inTheMiddle(s);
    await s.redis.restart();
    const result = await s.queue.wait(job, { timeout: 120_000 });
    assert.equal(result.images[0]?.chainId, image.chainId);
    assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
    worker.kill('SIGTERM');
    assert.equal(await worker.ended, 0, worker.log());
    const completions = worker
      .log()
      .split('\n')
      .filter((line) => line.includes('completed in'));
    assert.equal(completions.length, 1);
    await s.assertClean(chainOf(image));
  });
});

describe('a job for an image in the store', () => {
  it('downloads no layer', async () => {
    await using s = await stage();
    const image = someImage('again', 4);
    await s.push('again', { app: image });
    await s.worker();
    await s.queue.wait(await s.queue.add(s.payload('again')), { timeout: 120_000 });
    const layers = image.layers.map((layer) => hexOf(layer.blob.digest));
    const before = s.proxy.seen.length;
    const durations: number[] = [];
    for (let i = 0; i < 5; i++) {
      const result = await s.queue.wait(await s.queue.add(s.payload('again')), { timeout: 120_000 });
      assert.ok(result.images[0]?.layers.every(({ state }) => state === 'existed'));
      durations.push(result.durationMs);
    }
    assert.equal(s.proxy.seen.slice(before).filter(({ key }) => layers.some((hex) => key.endsWith(hex))).length, 0);
    console.log(`a job for an image that is there took ${durations.join(', ')} ms in the worker`);
  });
});
