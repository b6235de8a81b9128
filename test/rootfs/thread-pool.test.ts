import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it, mock } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import { UnpackError } from '../../src/errors.ts';
import type { Applier } from '../../src/rootfs/applier.ts';
import { ApplyThread } from '../../src/rootfs/apply-thread.ts';
import { ApplyPool, type ApplyPoolOptions } from '../../src/rootfs/thread-pool.ts';
import { openSource } from '../../src/source/open.ts';
import type { SourceSpec } from '../../src/source/source-spec.ts';
import { LIMITS } from '../support/apply.ts';
import { imageOf, layerOf, type TestLayer, writeLayout } from '../support/layout.ts';
import { refuse, startOddS3 } from '../support/odd-s3.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

/** Every thread that has been started, in order. */
const threads: Worker[] = [];
const remember = (worker: Worker) => void threads.push(worker);

const layers = ['1', '2', '3'].map((text) => layerOf(tar(file('name', text))));

async function poolOf(size: number, options: ApplyPoolOptions = {}, stored: readonly TestLayer[] = layers) {
  const place = scratch();
  const path = join(place.path, 'layout');
  await writeLayout(path, { app: imageOf(stored) });
  const pool = new ApplyPool(size, options);
  await nextTurn(); // Node tells of new threads in the turn after
  const store = { type: 'overlay', ownership: 'squash', overlayXattrs: 'user' } as const;
  const applierOfAJob = (source: SourceSpec = { kind: 'oci-layout', path }) =>
    pool.applier(openSource(source), LIMITS, store);
  const onlyJob = applierOfAJob();
  let targets = 0;
  return {
    pool,
    applierOfAJob,
    /** Applies a layer to a new directory. @returns that directory */
    async apply(
      { blob, diff }: TestLayer,
      options: Partial<Parameters<Applier['apply']>[2]> = {},
      applier = onlyJob,
    ): Promise<string> {
      const source = join(place.path, `${targets++}`);
      mkdirSync(source);
      await applier.apply(blob, [{ type: 'bind', source, options: ['rw'] }], {
        below: 'nothing',
        diffId: diff.digest,
        ...options,
      });
      return source;
    },
    async [Symbol.asyncDispose]() {
      await pool.close();
      place[Symbol.dispose]();
    },
  };
}

const [first, second, third] = layers;
assert.ok(first && second && third);

describe('the apply threads', () => {
  beforeEach(() => void process.on('worker', remember));
  afterEach(() => {
    process.off('worker', remember);
    threads.length = 0;
    mock.timers.reset();
  });

  it('start when there is a layer, are used again and are never more than wanted', async () => {
    await using b = await poolOf(2);
    assert.equal(threads.length, 0);
    await b.apply(first);
    await b.apply(second);
    assert.equal(threads.length, 1);
    await Promise.all(layers.map((layer) => b.apply(layer)));
    assert.equal(threads.length, 2);
  });

  it('are all there from the start where they are to stay', async () => {
    await using b = await poolOf(3, { resident: true });
    assert.equal(threads.length, 3);
    await b.apply(first);
    assert.equal(threads.length, 3);
  });

  it('begin with the one that was started before', async () => {
    const started = new ApplyThread();
    await using b = await poolOf(2, { started });
    await b.apply(first);
    assert.equal(threads.length, 1);
    assert.equal(started.alive, true);
    await b.pool.close();
    assert.equal(started.alive, false);
  });

  it('end when there has been nothing to do for a minute', async () => {
    await using b = await poolOf(1);
    mock.timers.enable({ apis: ['setTimeout'] });
    await b.apply(first);
    const ended = new Promise((resolve) => threads[0]?.once('exit', resolve));
    mock.timers.tick(59_999);
    await b.apply(second);
    mock.timers.tick(60_000);
    await ended;
    mock.timers.reset();
    assert.equal(readFileSync(join(await b.apply(third), 'name'), 'utf8'), '3');
    assert.equal(threads.length, 2);
  });

  it('take the layers of the job that came first, the largest first', async () => {
    const sized = (size: number) => layerOf(tar(file('name', randomBytes(size))), 'none');
    const [small, middling, large] = [sized(10), sized(2000), sized(90_000)];
    await using b = await poolOf(1, {}, [first, small, middling, large]);
    const [early, late] = [b.applierOfAJob(), b.applierOfAJob()];
    const order: string[] = [];
    const apply = async (name: string, layer: TestLayer, applier: Applier) => {
      await b.apply(layer, {}, applier);
      order.push(name);
    };
    await Promise.all([
      apply('early, first', first, early),
      apply('late, large', large, late),
      apply('early, small', small, early),
      apply('early, middling', middling, early),
    ]);
    assert.deepEqual(order, ['early, first', 'early, middling', 'early, small', 'late, large']);
  });

  it('fail the layer that one of them dies with, and nothing after it', async () => {
    await using b = await poolOf(1);
    await b.apply(first);
    const failed = b.apply(second);
    threads[0]?.postMessage(null); // nothing that it knows: it dies of it
    await assert.rejects(failed, { code: 'INTERNAL' });
    assert.equal(readFileSync(join(await b.apply(first), 'name'), 'utf8'), '1');
    assert.equal(threads.length, 2);
  });

  it('are not asked again when they died without work', async () => {
    await using b = await poolOf(1, { resident: true });
    const died = new Promise((resolve) => threads[0]?.once('exit', resolve));
    threads[0]?.postMessage(null);
    await died;
    await b.apply(first);
    assert.equal(threads.length, 2);
  });

  it('give up the layer that is aborted, and take the next', async () => {
    await using b = await poolOf(1);
    const abort = new AbortController();
    const aborted = b.apply(second, { signal: abort.signal });
    abort.abort(new UnpackError('CANCELLED', 'enough'));
    await assert.rejects(aborted, { code: 'CANCELLED', message: 'enough' });
    assert.equal(readFileSync(join(await b.apply(first), 'name'), 'utf8'), '1');
    assert.equal(threads.length, 1);
  });

  it('go on with a URL of their own process where the one they have expires in the middle of a layer', async () => {
    const content = randomBytes(3 * 1024 * 1024);
    const layer = layerOf(tar(file('name', content)), 'none');
    const refused: string[] = [];
    const server = await startOddS3(
      new Map([[`blobs/${layer.blob.digest.replace(':', '/')}`, layer.bytes]]),
      (request, answer) => {
        if (request.before === 0) answer.endAfter = 1024 * 1024;
        if (request.before !== 1) return;
        refused.push(request.query.get('X-Amz-Signature') ?? '');
        refuse(answer, '400 Bad Request', 'ExpiredToken');
      },
    );
    await using b = await poolOf(1);
    const connection = {
      endpoint: server.endpoint,
      region: 'us-east-1',
      forcePathStyle: true,
      credentials: { accessKeyId: 'key', secretAccessKey: 'secret' },
      connectTimeout: 60_000,
      idleTimeout: 60_000,
      maxResumes: 1,
    };
    const source = { kind: 's3', bucket: 'images', prefix: '', layout: { kind: 'oci' }, connection } as const;
    const directory = await b.apply(layer, {}, b.applierOfAJob(source));
    assert.ok(readFileSync(join(directory, 'name')).equals(content));
    assert.equal(refused.length, 1);
    assert.deepEqual(
      server.seen.map(({ range }) => range?.from ?? 0),
      [0, 1024 * 1024, 1024 * 1024],
    );
    server.close();
  });

  it('fail what they have when the pool is closed, and start nothing more', async () => {
    await using b = await poolOf(1);
    await b.apply(first);
    const running = b.apply(second);
    const waiting = b.apply(third);
    void b.pool.close();
    await assert.rejects(running, { code: 'INTERNAL' });
    await assert.rejects(waiting, { code: 'SHUTTING_DOWN' });
    assert.equal(threads.length, 1);
  });
});
