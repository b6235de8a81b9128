import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it, mock } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { UnpackError } from '../../src/errors.ts';
import type { Applier } from '../../src/rootfs/applier.ts';
import { ApplyThread } from '../../src/rootfs/apply-thread.ts';
import { ApplyPool, type ApplyPoolOptions, Slots } from '../../src/rootfs/pool.ts';
import { openSource } from '../../src/source/open-sources.ts';
import type { SourceSpec } from '../../src/source/source-spec.ts';
import { SETTINGS } from '../support/apply.ts';
import { connectionTo } from '../support/bucket.ts';
import { imageOf, layerOf, type TestLayer, writeLayout } from '../support/layout.ts';
import { refuse, startOddS3 } from '../support/odd-s3.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

/** All threads that were started, in order. */
const threads: Worker[] = [];
const remember = (worker: Worker) => void threads.push(worker);

const layers = ['1', '2', '3'].map((text) => layerOf(tar(file('name', text))));

async function poolOf(size: number, options: ApplyPoolOptions = {}, stored: readonly TestLayer[] = layers) {
  const place = scratch();
  const path = join(place.path, 'layout');
  await writeLayout(path, { app: imageOf(stored) });
  const pool = new ApplyPool(size, SETTINGS, options);
  await nextTurn(); // Node emits `worker` in the next turn
  const store = {
    type: 'overlay',
    ownership: 'squash',
    overlayXattrs: 'user',
    marked: true,
    collectedBy: 'unpackd',
  } as const;
  const applierOfAJob = (source: SourceSpec = { kind: 'oci-layout', path }) => pool.applier(openSource(source), store);
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

  it('start on demand, are reused, and are never more than the maximum', async () => {
    await using b = await poolOf(2);
    assert.equal(threads.length, 0);
    await b.apply(first);
    await b.apply(second);
    assert.equal(threads.length, 1);
    await Promise.all(layers.map((layer) => b.apply(layer)));
    assert.equal(threads.length, 2);
  });

  it('all start at once if they are resident', async () => {
    await using b = await poolOf(3, { resident: true });
    assert.equal(threads.length, 3);
    await b.apply(first);
    assert.equal(threads.length, 3);
  });

  it('include the one that the caller has started', async () => {
    const started = new ApplyThread();
    await using b = await poolOf(2, { started });
    await b.apply(first);
    assert.equal(threads.length, 1);
    assert.equal(started.alive, true);
    await b.pool.close();
    assert.equal(started.alive, false);
  });

  it('end after a minute without a task', async () => {
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

  it('take the layers of the earliest job first, and the largest of these first', async () => {
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

  it('fail the layer of a thread that dies, and no later layer', async () => {
    await using b = await poolOf(1);
    await b.apply(first);
    const failed = b.apply(second);
    threads[0]?.postMessage(null); // an unknown message, which kills the thread
    await assert.rejects(failed, { code: 'INTERNAL' });
    assert.equal(readFileSync(join(await b.apply(first), 'name'), 'utf8'), '1');
    assert.equal(threads.length, 2);
  });

  it('are replaced if they died while idle', async () => {
    await using b = await poolOf(1, { resident: true });
    const died = new Promise((resolve) => threads[0]?.once('exit', resolve));
    threads[0]?.postMessage(null);
    await died;
    await b.apply(first);
    assert.equal(threads.length, 2);
  });

  it('abort a layer and take the next', async () => {
    await using b = await poolOf(1);
    const abort = new AbortController();
    const aborted = b.apply(second, { signal: abort.signal });
    abort.abort(new UnpackError('CANCELLED', 'enough'));
    await assert.rejects(aborted, { code: 'CANCELLED', message: 'enough' });
    assert.equal(readFileSync(join(await b.apply(first), 'name'), 'utf8'), '1');
    assert.equal(threads.length, 1);
  });

  it('get a new URL from the main thread if theirs expires in the middle of a layer', async () => {
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
    const connection = connectionTo(server.endpoint, { maxResumes: 1 });
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

  it('fail their layers when the pool is closed, and start no more', async () => {
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

/** The turn of tests that do not depend on the order. */
const SAME = { place: 0, weight: 1 };

/** Layers in the order of arrival: each with its job, its size, and the turns that its work takes. */
const arrivals = fc.array(
  fc.record({ place: fc.nat(4), weight: fc.nat(5), turns: fc.nat(3), pause: fc.nat(2), aborted: fc.nat(9) }),
  { minLength: 1, maxLength: 30 },
);

describe('Slots', () => {
  it('start no work before work of an earlier job or larger work of the same job', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 3 }), arrivals, async (count, works) => {
        const slots = new Slots(count);
        const waiting = new Set<(typeof works)[number]>();
        let running = 0;
        const runs: Promise<unknown>[] = [];
        for (const work of works) {
          const abort = new AbortController();
          waiting.add(work);
          const run = slots.run(work, abort.signal, async () => {
            waiting.delete(work);
            assert.ok(++running <= count, `${running} at once`);
            for (const other of waiting) {
              assert.ok(other.place >= work.place, 'work of an earlier job waits');
              assert.ok(other.place > work.place || other.weight <= work.weight, 'larger work of the same job waits');
            }
            for (let turn = 0; turn < work.turns; turn++) await nextTurn();
            running--;
          });
          runs.push(run.catch((error) => assert.equal(error.code, 'INTERNAL')));
          if (work.aborted === 0 && waiting.delete(work)) abort.abort();
          for (let turn = 0; turn < work.pause; turn++) await nextTurn();
        }
        await Promise.all(runs);
        assert.deepEqual([running, waiting.size], [0, 0]);
      }),
    );
  });

  it('start a small layer of an early job before a large one of a later job', async () => {
    const slots = new Slots(1);
    const order: string[] = [];
    const works = [
      ['early, large', { place: 0, weight: 9 }],
      ['late, huge', { place: 1, weight: 99 }],
      ['early, small', { place: 0, weight: 1 }],
      ['late, large', { place: 1, weight: 9 }],
      ['early, middling', { place: 0, weight: 5 }],
    ] as const;
    await Promise.all(works.map(([name, turn]) => slots.run(turn, undefined, async () => void order.push(name))));
    assert.deepEqual(order, ['early, large', 'early, middling', 'early, small', 'late, huge', 'late, large']);
  });

  it('reject waiting work at once when its signal is aborted', async () => {
    const slots = new Slots(1);
    const { promise, resolve } = Promise.withResolvers<void>();
    const first = slots.run(SAME, undefined, () => promise);
    const abort = new AbortController();
    const second = slots.run(SAME, abort.signal, async () => assert.fail('it was stopped before'));
    abort.abort();
    await assert.rejects(second, { code: 'INTERNAL' });
    resolve();
    await first;
    await slots.run(SAME, undefined, async () => {});
  });

  it('are free again after a failure', async () => {
    const slots = new Slots(1);
    await assert.rejects(slots.run(SAME, undefined, () => Promise.reject(new Error('no'))));
    assert.equal(await slots.run(SAME, undefined, async () => 'yes'), 'yes');
  });
});
