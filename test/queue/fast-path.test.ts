import assert from 'node:assert/strict';
import { test } from 'node:test';
import { abortError } from '../../src/errors.ts';
import type { UnpackedImage } from '../../src/image/unpack.ts';
import { derivedLog } from '../../src/queue/derived-progress.ts';
import type { Payload, Progress } from '../../src/queue/formats.ts';
import { payload, queueFixture } from './queue-fixture.ts';
import { image, type ScriptedStore } from './scripted-unpacker.ts';

const fixture = queueFixture();
const there: readonly UnpackedImage[] = [image('existed', 'existed')];
const neverCalled = (): never => {
  throw new Error('nothing was to be unpacked');
};

/** The ways in which a job can find its image in the store: in the cache, after a lookup, or by its tag. */
const WAYS: Readonly<Record<string, { readonly store: ScriptedStore; readonly more?: Partial<Payload> }>> = {
  'is in the cache': { store: { recall: async () => there, look: async () => there } },
  'is found by a lookup': { store: { look: async () => there } },
  'is found by its tag': { store: { look: async () => there }, more: { tag: 'v1' } },
};

for (const [how, { store, more }] of Object.entries(WAYS)) {
  test(`a job whose image ${how} writes only its result, and progress and log are derived from it`, async () => {
    const settings = fixture.settings();
    const queue = fixture.producer(settings);
    // the first job of a worker looks at its cancel flag alone; those after it are looked at ahead
    const jobs = await queue.addBulk(['one', 'two', 'three'].map((name) => ({ payload: payload(name, more) })));
    const worker = await fixture.worker(settings, neverCalled, store);
    for (const [index, { id }] of jobs.entries()) {
      const seen: Progress[] = [];
      const result = await queue.wait(id, { onProgress: (progress) => seen.push(progress) });
      assert.deepEqual(
        result.images[0]?.layers.map(({ state }) => state),
        ['existed', 'existed'],
      );
      assert.deepEqual([result.attempts, result.worker.name, result.warnings], [1, 'worker-1', []]);
      const { state, progress, attemptsMade } = await queue.status(id);
      assert.deepEqual([state, attemptsMade], ['completed', 1]);
      assert.deepEqual([progress?.phase, progress?.layersDone, progress?.layersTotal], ['completed', 2, 2]);
      assert.deepEqual([progress?.bytesFetched, progress?.failures], [0, []]);
      assert.equal(seen.at(-1)?.phase, 'completed', 'who waits is told, too');

      const bull = fixture.bull(settings);
      const raw = await bull.getJob(id);
      assert.equal(raw?.progress, 0, 'BullMQ’s own default');
      assert.equal((await bull.getJobLogs(id)).count, 0);
      const lines = worker.log.filter(({ job }) => job === id);
      assert.equal(lines.length, 1);
      assert.match(
        String(lines[0]?.msg),
        /^completed in \d+ ms, attempt 1 on worker-1: all 2 layers of linux\/amd64, sha256:000000000000… \(2\.0 KiB\) existed$/,
      );
      assert.equal(lines[0]?.image, `registry.example/${['one', 'two', 'three'][index]}:1`);
    }
  });

  test(`a job that was cancelled while it waited does not complete, although its image ${how}`, async () => {
    const settings = fixture.settings({ UNPACK_JOBS: '1' });
    const queue = fixture.producer(settings);
    const jobs = await queue.addBulk(
      Array.from({ length: 30 }, (_, index) => ({ payload: payload(`bucket-${index}`, more) })),
    );
    const cancelled = new Set([jobs[0]?.id, jobs[7]?.id, jobs[29]?.id].map(String));
    for (const id of cancelled) await queue.cancel(id);
    await fixture.worker(settings, neverCalled, store);
    for (const { id } of jobs) {
      if (cancelled.has(id)) await assert.rejects(queue.wait(id), { code: 'CANCELLED' });
      else await queue.wait(id);
    }
  });

  test(`an attempt after a failed one updates the progress, if its image ${how}`, async () => {
    const settings = fixture.settings();
    const queue = fixture.producer(settings);
    let mended = false;
    const later: ScriptedStore = {
      ...(store.recall === undefined ? {} : { recall: async () => (mended ? there : undefined) }),
      ...(store.look === undefined ? {} : { look: async () => (mended ? there : undefined) }),
    };
    const calls: number[] = [];
    await fixture.worker(
      settings,
      ({ number, onResolved }) => {
        calls.push(number);
        onResolved?.(there);
        if (mended) return [...there];
        mended = true;
        throw new Error('the lights went out');
      },
      later,
    );
    const job = await queue.add(payload('one', more));
    assert.equal((await queue.wait(job)).attempts, 2);
    const { progress, failure } = await queue.status(job.id);
    assert.deepEqual([progress?.phase, failure, progress?.failures.length], ['completed', undefined, 1]);
    assert.deepEqual(calls, [1, 2]);
    const { logs } = await fixture.bull(settings).getJobLogs(job.id);
    assert.ok(
      logs.some((line) => line.includes('attempt 2 of 5 on worker-1')),
      logs.join('\n'),
    );
  });

  test(`a job that stalled says so in its log, if its image ${how}`, async () => {
    const settings = fixture.settings();
    const queue = fixture.producer(settings);
    const job = await queue.add(payload('one', more));
    const bull = fixture.bull(settings);
    const client = await bull.getBackend().client;
    await client.hset(bull.toKey(job.id), { stc: '1' });
    await fixture.worker(settings, () => [...there], store);
    await queue.wait(job);
    const { logs } = await bull.getJobLogs(job.id);
    assert.ok(
      logs.some((line) => line.includes('WARN taken over from a worker that stopped responding')),
      logs.join('\n'),
    );
  });
}

for (const [how, { store, more }] of Object.entries(WAYS)) {
  /** The same for each way. The first job of a worker never takes the shorter one. */
  const found = (images: readonly UnpackedImage[]): ScriptedStore =>
    Object.fromEntries(Object.keys(store).map((way) => [way, async () => images]));

  test(`a job whose image ${how} reports the same faults of its documents as the first job`, async () => {
    const settings = fixture.settings();
    const queue = fixture.producer(settings);
    const warnings = ['document sha256:1: schemaVersion is missing; treated as 2'];
    const images = [image('existed'), image('existed')].map((one) => ({ ...one, warnings }));
    await fixture.worker(settings, neverCalled, found(images));
    await queue.wait(await queue.add(payload('one', more)));
    const result = await queue.wait(await queue.add(payload('two', more)));
    assert.deepEqual(result.warnings, warnings);
    const [warned, said, ...rest] = derivedLog(result, new Date(0));
    assert.deepEqual([warned, rest], [`1970-01-01T00:00:00.000Z WARN ${warnings[0]}`, []]);
    assert.match(said ?? '', /existed$/);
  });

  test(`a job whose image ${how} completes also without layers and chain ID`, async () => {
    const settings = fixture.settings();
    const queue = fixture.producer(settings);
    const { chainId: _, ...bare } = image();
    await fixture.worker(settings, neverCalled, found([bare]));
    await queue.wait(await queue.add(payload('one', more)));
    const job = await queue.add(payload('two', more));
    const [one] = (await queue.wait(job)).images;
    assert.deepEqual([one?.layers, one && 'chainId' in one], [[], false]);
    const { progress, result } = await queue.status(job.id);
    assert.deepEqual([progress?.phase, progress?.layersTotal, progress?.images[0]?.layers], ['completed', 0, []]);
    assert.match(derivedLog(result, new Date(0)).join(), /has no layers, so nothing was unpacked$/);
  });
}

for (const [how, more] of Object.entries({ digest: {}, tag: { tag: 'v1' } })) {
  test(`a job whose lookup takes more than a quarter of a second shows progress, by ${how}`, async () => {
    const shown = Promise.withResolvers<void>();
    const settings = fixture.settings();
    const queue = fixture.producer(settings);
    let looks = 0;
    await fixture.worker(settings, () => [...there], {
      look: async () => {
        looks++;
        await shown.promise;
        return there;
      },
    });
    const job = await queue.add(payload('one', more));
    const phases: string[] = [];
    await queue.wait(job, {
      onProgress: ({ phase }) => {
        phases.push(phase);
        shown.resolve();
      },
    });
    assert.equal(phases[0], 'resolving');
    assert.equal(phases.at(-1), 'completed');
    assert.equal(looks, 1, 'what has begun is waited for, and not begun once more');
  });

  test(`a job that was cancelled while it waited ends as cancelled, even if its lookup fails, by ${how}`, async () => {
    const settings = fixture.settings();
    const queue = fixture.producer(settings);
    const job = await queue.add(payload('one', more));
    await queue.cancel(job.id, 'not wanted');
    await fixture.worker(settings, neverCalled, {
      look: async () => {
        throw new Error('S3 is away');
      },
    });
    await assert.rejects(queue.wait(job), { code: 'CANCELLED', message: /not wanted/ });
    assert.equal((await queue.status(job.id)).attemptsMade, 1);
  });

  test(`a lookup is aborted when its job times out, by ${how}`, async () => {
    const settings = fixture.settings({ UNPACK_JOB_TIMEOUT: '400ms' });
    const queue = fixture.producer(settings);
    await fixture.worker(settings, neverCalled, {
      look: (signal) =>
        new Promise((_, reject) => {
          signal?.addEventListener('abort', () => reject(abortError(signal)), { once: true });
        }),
    });
    const slow = await queue.add(payload('slow', more), { attempts: 1 });
    await assert.rejects(queue.wait(slow), { code: 'TIMED_OUT' });
  });
}
